"""Reinitialization of the kept weights right after pruning: OrthP, rewinding, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fggp_deploy.errors import UnknownName
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.state import PruningState

NONE, ORTHP, REWIND = "none", "orthp", "rewind"
_ITERATIONS = 20


class Reinit:
    """Gives the kept weights new values, and clears the optimizer's state.

    `kind` "orthp": the kept weights of each prunable layer become orthogonal, see `orthogonal`.
    "rewind": the whole network, including batch-norm statistics, returns to its state after step
    `rewind_to` (0: the initial state), under the current masks. "none": nothing changes.

    Source: OrthP: Wang et al. 2021 (arXiv 2105.05916); rewinding: Frankle et al. 2020 (arXiv
    1912.05671).
    """

    def __init__(self, kind: str, *, rewind_to: int = 0) -> None:
        if kind not in (NONE, ORTHP, REWIND):
            raise UnknownName("reinit", kind, (NONE, ORTHP, REWIND))
        self.kind = kind
        self.rewind_to = rewind_to
        self._snapshot: dict[str, Tensor] | None = None

    def after_step(self, state: PruningState, step: int) -> None:
        """Take the snapshot if this is the step to rewind to; 0 is the start."""
        if self.kind == REWIND and step == self.rewind_to:
            self._snapshot = {n: t.detach().clone() for n, t in state.model.state_dict().items()}

    @torch.no_grad()
    def apply_(self, state: PruningState) -> None:
        """Change the weights in place; removed weights stay zero."""
        if self.kind == NONE:
            return
        if self.kind == ORTHP:
            orthogonalize_(state.model, state.params, state.masks)
        elif self._snapshot is not None:
            for name, value in state.model.state_dict().items():
                value.copy_(self._snapshot[name])
        if state.optimizer is not None:
            state.optimizer.state.clear()
        state.zero_removed_()

    def state_dict(self) -> dict[str, Any]:
        """The snapshot."""
        return {"snapshot": self._snapshot}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        snapshot = state.get("snapshot")  # older savepoints have none
        self._snapshot = None if snapshot is None else dict(snapshot)


@torch.no_grad()
def orthogonalize_(model: nn.Module, params: Mapping[str, nn.Parameter], masks: MaskSet) -> None:
    """Make the kept weights of each of these parameters orthogonal, group by group, in place."""
    groups = {id(m.weight): getattr(m, "groups", 1) for m in model.modules() if _weight(m)}
    groups |= {  # the projections of queries, keys and values lie in one weight
        id(m.in_proj_weight): 3 for m in model.modules() if isinstance(m, nn.MultiheadAttention)
    }
    for name, p in params.items():
        rows = p.reshape(groups.get(id(p), 1), -1, p[0].numel())
        kept = masks[name].reshape(rows.shape)
        new = torch.stack([orthogonal(w, k) for w, k in zip(rows, kept, strict=True)])
        p.copy_(new.reshape(p.shape))


def _weight(module: Any) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)


def orthogonal(weight: Tensor, kept: Tensor) -> Tensor:
    """A matrix with orthogonal rows of equal norm (columns, if there are more rows than columns).

    weight, kept (bool): [rows, K] → the same, zero where not kept, with the Frobenius norm of the
    kept weights, so that a layer without batch norm keeps its scale. Rows and columns without a
    kept weight are ignored. If all other weights are kept, as after filter pruning, the result is
    the exact Q of a QR decomposition with the signs of R's diagonal. Under any other mask such a
    matrix may not exist; the result then comes from at most 20 steps of gradient descent on
    ‖WWᵀ − I‖² of the kept weights, each of which must lower it.

    Source: Wang et al. 2021 (arXiv 2105.05916), OrthP, for whole filters; the descent is on the
    approximate isometry of Lee et al. 2020 (arXiv 1906.06307).
    """
    w = weight * kept
    rows, columns = kept.any(1).nonzero().squeeze(1), kept.any(0).nonzero().squeeze(1)
    if not len(rows) or not bool(w.any()):
        return w
    part, mask = w[rows][:, columns], kept[rows][:, columns]
    if tall := len(rows) > len(columns):
        part, mask = part.T, mask.T
    new = _by_qr(part) if bool(mask.all()) else _by_descent(part, mask)
    new = new * (part.norm() / new.norm())
    out = torch.zeros_like(w)
    out[rows[:, None], columns] = new.T if tall else new
    return out


def _by_qr(w: Tensor) -> Tensor:
    q, r = torch.linalg.qr(w.T)
    return (q * torch.where(r.diagonal() < 0, -1.0, 1.0)).T


def _by_descent(w: Tensor, mask: Tensor) -> Tensor:
    one = torch.eye(len(w), device=w.device, dtype=w.dtype)
    gram = w @ w.T
    w = w * (gram.trace() / gram.square().sum()).sqrt()  # the scale that is closest to I
    gram = w @ w.T
    away, length = float((gram - one).square().sum()), 0.5
    for _ in range(_ITERATIONS):
        tried = w - length * ((gram - one) @ w * mask)
        gram_tried = tried @ tried.T
        now = float((gram_tried - one).square().sum())
        if now < away:
            w, gram, away = tried, gram_tried, now
        else:
            length /= 2
    return w
