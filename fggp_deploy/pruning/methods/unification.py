"""Micro-structured unification and pruning by ADMM: small blocks share one |w| or are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fggp_deploy.errors import ConfigError, LayerCollapse
from fggp_deploy.pruning.allocation import ALLOCATIONS, GLOBAL
from fggp_deploy.pruning.criteria import smallest
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.blocks import Blocking
from fggp_deploy.pruning.methods.parts.floors import drop_above_floors, positions
from fggp_deploy.pruning.methods.state import PruningState
from fggp_deploy.pruning.schedules import Cubic, Schedule

SHAPES = ("1x4", "4x1", "4x4", "1x8", "8x1")


@dataclass(frozen=True, kw_only=True)
class UnificationOptions(Options):
    """Unification's options."""

    block: str = setting(
        "1x4", "Rows x columns of a block of the weight as [outputs, all else].", choices=SHAPES
    )
    unified: float = setting(
        1.0, "Fraction of the kept blocks whose weights share one |w|; the others are free.",
        least=0, most=1,
    )  # fmt: skip
    rho: float = setting(
        0.01, "Weight of the pull towards the blocks until they are fixed.", least=0
    )
    rounds: int = setting(5, "Updates of Z and U before the blocks are fixed.", least=1)
    until: float = setting(
        0.5, "Fraction of the run's steps after which blocks are fixed.", above=0, most=1
    )
    allocation: str = setting(
        GLOBAL, "How many weights each layer loses: all blocks compete, or by an allocation.",
        choices=(GLOBAL, *ALLOCATIONS),
    )  # fmt: skip


def least_blocks(cost: Tensor, size: Tensor, n_weights: int) -> tuple[Tensor, int, int]:
    """The blocks to remove, so that n_weights weights go: the lowest cost per weight first.

    If the last block has too many weights, it stays; then the function also returns its index and
    how many of its weights are still to be removed (0 if the count is exact).
    cost, size: [blocks] → bool [blocks], index, count; ties by index.

    >>> gone, block, n = least_blocks(torch.tensor([9.0, 1.0, 5.0]), torch.tensor([4, 4, 4]), 6)
    >>> gone.tolist(), block, n
    ([False, True, False], 2, 2)
    """
    order = (cost / size).argsort(stable=True)
    ends = size[order].cumsum(0)
    n_whole = int((ends <= n_weights).count_nonzero())
    gone = torch.zeros_like(cost, dtype=torch.bool)
    gone[order[:n_whole]] = True
    left = n_weights - (int(ends[n_whole - 1]) if n_whole else 0)
    return gone, int(order[min(n_whole, len(order) - 1)]), left


def without_least_blocks(x: Tensor, valid: Tensor, n_weights: int) -> Tensor:
    """The kept weights, bool [blocks, n], after n_weights are removed with the blocks they form.

    Blocks with the lowest Σx² per weight are removed whole. If the last has too many weights, only
    its smallest weights are removed. valid: bool [blocks, n], False for padding.
    """
    gone, block, left = least_blocks((x * x).sum(1), valid.sum(1), n_weights)
    kept = valid & ~gone.unsqueeze(1)
    if left:
        kept[block, smallest(x[block].abs().masked_fill(~valid[block], torch.inf), left)] = False
    return kept


def shared(blocks: Tensor, negative: Tensor, valid: Tensor) -> Tensor:
    """Each block with one magnitude: the mean of its weights times their signs. Signs stay.

    blocks float, negative bool (sign −), valid bool (False for padding): [blocks, n].

    >>> w = torch.tensor([[1.0, -3.0, 2.0, -2.0]])
    >>> shared(w, w < 0, torch.ones_like(w, dtype=torch.bool)).tolist()
    [[2.0, -2.0, 2.0, -2.0]]
    """
    sign = torch.where(negative, -1.0, 1.0).to(blocks.dtype) * valid
    mean = (blocks * sign).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
    return mean * sign


class Unification:
    """Removes whole blocks and makes the weights of the others share one |w|, by ADMM.

    Until the end of the schedule, SGD also minimizes ρ/2·‖W − Z + U‖². At each update, Z becomes
    the projection of W + U, and U grows by W − Z. The projection sets the blocks with the smallest
    Σw² per weight to zero. Of the kept blocks, it sets the fraction `unified` that changes least to
    their mean |w|, with their signs. At the end of the schedule its choice is final: zeros are
    masked, and the weights of a unified block share one trained magnitude with fixed signs.

    Exactly round(target·N*) of N* weights are removed. If that is not a whole number of blocks, the
    rest are the smallest weights of one more block (per layer, if `allocation` is by layer, and per
    layer at its floor), whose other weights stay free. Gradients must be unscaled.

    Source: Lin et al. 2021 (arXiv 2106.08301); ADMM as in Zhang et al. 2018 (arXiv 1804.03294). ρ
    is ours.
    """

    def __init__(self, schedule: Schedule, options: UnificationOptions | None = None) -> None:
        self.target = schedule.sparsity(schedule.last_update)
        self.schedule = schedule
        self.options = options or UnificationOptions()
        self._valid: Tensor | None = None
        self._z: Tensor | None = None  # the blocks of all layers, [blocks, n]
        self._u: Tensor | None = None
        self._unified: Tensor | None = None  # after the choice is final, with the signs
        self._negative: Tensor | None = None
        self._pending = False

    @property
    def last_update(self) -> int:
        """The last step at which the masks may change, see method.Late."""
        return self.schedule.last_update

    def start(self, state: PruningState) -> None:
        """Set Z to the first projection; raises ConfigError if the network is sparse."""
        if state.masks.n_removed:
            raise ConfigError(
                f"the network is already {state.masks.sparsity:.2%} sparse; {_BECAUSE}"
            )
        state.zero_removed_()
        w = self._cut(state.params, state)
        self._z, self._u = self._project(w, state)[0], torch.zeros_like(w)

    def after_backward(self, state: PruningState, step: int) -> None:
        """Pull the weights to Z; at an update change Z and U, at the last one fix the blocks."""
        if self._unified is not None:
            return
        due = self._pending or self.schedule.is_update(step)
        self._pending = due and not state.grads_are_finite()
        w = self._cut(state.params, state)
        z, u = self._moved(w)
        pulls = self._join(self.options.rho * (w - z + u), state)
        for name, pull in pulls.items():
            if (grad := state.params[name].grad) is not None:
                grad.add_(pull)
        if not due or self._pending:
            return
        if step >= self.schedule.last_update:
            self._fix(w + u, state, f"step {step}")
        else:
            self._z, _, _ = self._project(w + u, state)
            self._u = u + w - self._z

    def after_step(self, state: PruningState, step: int) -> None:
        """Keep removed weights at zero, and each unified block at one magnitude."""
        state.zero_removed_()
        self._unify_(state)

    def finish(self, state: PruningState) -> MaskSet:
        """The masks; fixes the blocks now if the schedule did not reach its end."""
        if self._unified is None:
            w = self._cut(state.params, state)
            self._fix(w + self._moved(w)[1], state, "the end")
        self.after_step(state, 0)
        return state.masks

    def state_dict(self) -> dict[str, Any]:
        """Z and U; after the blocks are fixed, the unified blocks and their signs."""
        return {
            "pending": self._pending,
            "z": self._z,
            "u": self._u,
            "unified": self._unified,
            "negative": self._negative,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        self._pending = bool(state["pending"])
        self._z, self._u = state["z"], state["u"]
        self._unified, self._negative = state["unified"], state["negative"]

    def _moved(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Z and U on the device of the weights; a resumed run has them from its savepoint."""
        assert self._z is not None  # set by start or load_state_dict
        assert self._u is not None
        self._z, self._u = self._z.to(w), self._u.to(w)
        return self._z, self._u

    def _blockings(self, state: PruningState) -> dict[str, Blocking]:
        height, width = (int(n) for n in self.options.block.split("x"))
        return {n: Blocking(tuple(m.shape), height, width) for n, m in state.masks.items()}

    @torch.no_grad()
    def _cut(self, tensors: Mapping[str, Tensor], state: PruningState) -> Tensor:
        return torch.cat([b.cut(tensors[n]) for n, b in self._blockings(state).items()])

    def _join(self, blocks: Tensor, state: PruningState) -> dict[str, Tensor]:
        blockings = self._blockings(state)
        counts = [b.n_blocks for b in blockings.values()]
        parts = blocks.split(counts)
        return {n: b.join(t) for (n, b), t in zip(blockings.items(), parts, strict=True)}

    def _is_weight(self, state: PruningState) -> Tensor:
        """False for the padding of blocks that reach over the edge of a weight."""
        if self._valid is None:
            ones = {n: torch.ones_like(m) for n, m in state.masks.items()}
            self._valid = self._cut(ones, state)
        return self._valid

    @torch.no_grad()
    def _project(self, x: Tensor, state: PruningState) -> tuple[Tensor, Tensor, Tensor]:
        """The projection of x: values and kept weights, [blocks, n], and the unified blocks."""
        valid = self._is_weight(state)
        one = shared(x, x < 0, valid)
        cost = ((x - one) ** 2).sum(1) / valid.sum(1)
        kept = valid.clone()
        unified = torch.zeros_like(cost, dtype=torch.bool)
        for part, n_weights in self._shares(x, state):
            kept[part] = part_kept = without_least_blocks(x[part], valid[part], n_weights)
            whole = (part_kept == valid[part]).all(1)
            those = whole.nonzero().squeeze(1)
            n_unified = round(self.options.unified * len(those))
            alike = torch.zeros_like(whole)
            alike[those[smallest(cost[part][those], n_unified)]] = True
            unified[part] = alike
        return torch.where(unified.unsqueeze(1), one, x) * kept, kept, unified

    def _shares(self, x: Tensor, state: PruningState) -> list[tuple[slice | Tensor, int]]:
        """Groups of blocks that compete, and how many weights each group loses.

        One group per layer, or one for all layers that are not at their floors.
        """
        parts, end = {}, 0
        for name, b in self._blockings(state).items():
            parts[name] = slice(end, end := end + b.n_blocks)
        if self.options.allocation == GLOBAL:
            return self._all_compete(x, parts, state)
        keep = state.kept_by(ALLOCATIONS[self.options.allocation], self.target)
        return [(part, state.masks[name].numel() - keep[name]) for name, part in parts.items()]

    def _all_compete(
        self, x: Tensor, parts: Mapping[str, slice], state: PruningState
    ) -> list[tuple[slice | Tensor, int]]:
        valid, width = self._is_weight(state), x.shape[1]
        least, left = state.floors(self.target), round(self.target * state.masks.n_total)

        def choose(names: Sequence[str], n: int) -> Tensor:
            where = positions([parts[name] for name in names], x.device)
            gone = torch.zeros_like(valid)
            gone[where] = valid[where] & ~without_least_blocks(x[where], valid[where], n)
            return gone.view(-1).nonzero().squeeze(1)

        places = {n: slice(p.start * width, p.stop * width) for n, p in parts.items()}
        _, held = drop_above_floors(choose, valid.view(-1), places, least, left)
        state.hold(held, least, when="choosing blocks")
        shares: list[tuple[slice | Tensor, int]] = []
        for name in held:
            n = state.masks[name].numel() - least[name]
            shares.append((parts[name], n))
            left -= n
        if others := [part for name, part in parts.items() if name not in held]:
            shares.append((positions(others, x.device), left))
        return shares

    def _fix(self, x: Tensor, state: PruningState, when: str) -> None:
        """Make the projection's choice final."""
        _, kept, self._unified = self._project(x, state)
        masks = {
            n: torch.empty_like(state.masks[n]).copy_(m) for n, m in self._join(kept, state).items()
        }
        try:
            state.set_masks(MaskSet(masks), when=when)
        except LayerCollapse as e:
            fix = "; or give --method-set allocation=erk, which keeps weights in every layer"
            raise LayerCollapse(f"{e}{fix * (self.options.allocation == GLOBAL)}") from e
        self._negative = self._cut(state.params, state) < 0
        self._z = self._u = None

    @torch.no_grad()
    def _unify_(self, state: PruningState) -> None:
        if self._unified is None or self._negative is None:
            return
        w = self._cut(state.params, state)
        self._unified, self._negative = self._unified.to(w.device), self._negative.to(w.device)
        one = shared(w, self._negative, self._is_weight(state))
        joined = self._join(torch.where(self._unified.unsqueeze(1), one, w), state)
        for name, t in joined.items():
            state.params[name].copy_(t)


def _make(o: UnificationOptions, task: Task) -> Method:
    end = max(1, round(o.until * task.n_steps))
    return Unification(Cubic(task.target, steps=task.n_steps, end=end, updates=o.rounds), o)


_BECAUSE = "its zeros may not fill whole blocks"
METHOD = MethodInfo(
    title="blocks share one |w| or are removed, by ADMM",
    source="Lin et al. 2021, arXiv 2106.08301",
    make=_make,
    options=UnificationOptions,
    keeps="Z and U, later the signs of the unified blocks",
    starts=("dense", "random"),
    because=_BECAUSE,
)
