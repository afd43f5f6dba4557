"""Pruning without training: magnitude, Wanda, second order; each re-fitted in closed form."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.distributed.ranks import Ranks
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import ALLOCATIONS
from fggp_deploy.pruning.criteria import smallest
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.gradual import GLOBAL
from fggp_deploy.pruning.methods.method import Batch, MethodInfo, Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.calibration import Gram, by_group, gram, in_order
from fggp_deploy.pruning.methods.parts.once import AtStart, without_smallest
from fggp_deploy.pruning.methods.parts.reinit import NONE, ORTHP, orthogonalise_
from fggp_deploy.pruning.methods.parts.ridge import refit
from fggp_deploy.pruning.methods.parts.state import PruningState

Batches = Callable[[], Sequence[Batch]]


class LayerRule(Protocol):
    """Chooses within one layer: weight [groups, outputs, K], its moments, how many go.

    → what is kept, bool of the weight's shape, exactly n_drop of them False, and the weights, which
    it may change on the way.
    """

    def __call__(self, weight: Tensor, gram: Gram, n_drop: int) -> tuple[Tensor, Tensor]:
        """Choose."""
        ...


class OneShot(AtStart):
    """Prunes layer by layer, in the order in which images pass, against the dense network.

    Each layer sees the inputs that the layers pruned before it leave. `rule` chooses within each
    layer, which keeps its share by `allocation`; None: the smallest |w|, of all layers at once
    where `allocation` is "global". Then, with `ridge` > 0, kept weights are re-fitted to the dense
    layer's outputs (see ridge.refit); or, with `orthp`, made orthogonal (see reinit.orthogonal) for
    the training that follows. With `refresh` batch-norm statistics are taken anew.

    `batches()`: calibration images; each of several processes gives its own, of one size.
    `progress` counts layers. Raises ConfigError where there are no images, and as layers.in_order
    does; that not without rule and ridge.

    Source: of `rule` None, Han et al. 2015 (arXiv 1506.02626), section 3: w stays where |w| > t.
    Their t is a multiple of the layer's standard deviation; here it follows from the count that is
    to go, ties to the lower index. Rules have their own.
    """

    def __init__(
        self,
        target: float,
        batches: Batches,
        *,
        rule: LayerRule | None = None,
        allocation: str = "uniform",
        ridge: float = 0.01,
        refresh: bool = True,
        orthp: bool = False,
        progress: Progress = silent,
    ) -> None:
        super().__init__(target)
        if rule is not None and allocation == GLOBAL:
            raise ConfigError("a rule that chooses within a layer needs a layer-wise allocation")
        self.batches = batches
        self.rule = rule
        self.allocation = allocation
        self.ridge = ridge
        self.refresh = refresh
        self.orthp = orthp
        self.progress = progress

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Prune and re-fit all layers; changes weights and batch-norm statistics too."""
        if self.rule is not None and state.masks.n_removed:
            raise ConfigError("this method chooses within dense layers; the network is sparse")
        batches = self.batches()
        if not batches:
            raise ConfigError("pruning without training needs calibration images; give a batch")
        layers = in_order(state, batches) if self.rule or self.ridge else []
        dense = copy.deepcopy(state.model)
        of_dense = dict(zip(state.model.modules(), dense.modules(), strict=True))
        masks = {**state.masks}
        if self.rule is None:
            masks = {**self._by_magnitude(state, n_drop)}
        counts = self._drops(state)
        for i, (name, modules) in enumerate(layers):
            self.progress("pruning and re-fitting layers", i, len(layers))
            p = state.params[name]
            weight = by_group(modules[0], p.detach())
            moments = _summed(
                [gram(m, state.model, of_dense[m], dense, batches) for m in modules]  # type: ignore[arg-type]
            )
            if self.rule is None:
                kept = by_group(modules[0], masks[name])
            else:
                kept, weight = self.rule(weight, moments, counts[name])
                masks[name] = torch.empty_like(masks[name]).copy_(kept.reshape(p.shape))
            if self.ridge:
                weight = refit(weight, kept, moments, ridge=self.ridge)
            with torch.no_grad():
                p.copy_((weight * kept).reshape(p.shape))
        chosen = MaskSet(masks)
        chosen.apply_(dict(state.params))
        if self.orthp:
            orthogonalise_(state.model, state.params, chosen)
        if self.refresh:
            refresh_batch_norms_(state.model, batches)
        return chosen

    def _by_magnitude(self, state: PruningState, n_drop: int) -> MaskSet:
        masks = state.masks
        if self.allocation == GLOBAL:
            return self.drop_smallest(state, state.flat_weights().abs(), n_drop)
        kept = {}
        for name, n in self._drops(state).items():
            one = MaskSet({name: masks[name]})
            score = state.params[name].detach().abs().reshape(-1)
            kept[name] = without_smallest(one, score, n)[name]
        return MaskSet(kept)

    def _drops(self, state: PruningState) -> dict[str, int]:
        """How many weights each layer loses, by its allocation."""
        if self.allocation == GLOBAL:
            return {}
        keep = state.kept_by(ALLOCATIONS[self.allocation], self.target)
        return {n: alive - keep[n] for n, alive in state.masks.n_alive.items()}


def wanda(weight: Tensor, gram: Gram, n_drop: int) -> tuple[Tensor, Tensor]:
    """Drop the smallest |w|·‖x‖ of each output, ‖x‖ the norm of what the weight multiplies.

    Every output loses as many, and the first `n_drop mod outputs` one more.
    Source: Sun et al. 2023 (arXiv 2306.11695), section 3.
    """
    groups, outputs, k = weight.shape
    score = weight.abs().double() * gram.inputs.diagonal(dim1=1, dim2=2).sqrt().unsqueeze(1)
    rows = score.reshape(groups * outputs, k)
    each, more = divmod(n_drop, len(rows))
    kept = torch.ones_like(rows, dtype=torch.bool)
    for i, row in enumerate(rows):
        kept[i, smallest(row, each + (i < more))] = False
    return kept.view(weight.shape), weight


@dataclass(frozen=True)
class SecondOrder:
    """Drop what costs least to second order, column by column, the rest making up for it.

    With H = XᵀX + `damping`·mean diagonal and U the upper Cholesky factor of H⁻¹, dropping w_j of
    an output costs (w_j/U_jj)², and the later weights of that output change by −w_j/U_jj·U_j:.
    Masks are chosen for `block` columns at a time, among all outputs; weights of earlier blocks
    are settled then. A weight whose input is always 0 costs nothing.

    Source: Frantar & Alistarh 2023, SparseGPT (arXiv 2301.00774), algorithm 1, after Hassibi &
    Stork 1993 (OBS); block 128 and damping 0.01 as public code.
    """

    block: int = 128
    damping: float = 0.01

    def __call__(self, weight: Tensor, gram: Gram, n_drop: int) -> tuple[Tensor, Tensor]:
        """See LayerRule."""
        k = weight.shape[2]
        w = weight.double().clone()
        kept = torch.ones_like(weight, dtype=torch.bool)
        factors = torch.stack([_inverse_factor(a, self.damping) for a in gram.inputs])
        for begin in range(0, k, self.block):
            part = slice(begin, min(begin + self.block, k))
            # so many of all columns up to this block's end, whatever its size
            quota = n_drop * part.stop // k - n_drop * begin // k
            cost = (w[:, :, part] / _diagonal(factors)[:, None, part]) ** 2
            cost *= _diagonal(gram.inputs)[:, None, part] != 0
            flat = torch.ones(cost.numel(), dtype=torch.bool, device=w.device)
            flat[smallest(cost.reshape(-1), quota)] = False
            kept[:, :, part] = flat.view(cost.shape)
            gone = torch.zeros_like(w[:, :, part])  # what each column leaves to the later ones
            for i, j in enumerate(range(part.start, part.stop)):
                cut = torch.where(kept[:, :, j], 0.0, w[:, :, j] / factors[:, None, j, j])
                w[:, :, j : part.stop] -= cut.unsqueeze(2) * factors[:, None, j, j : part.stop]
                gone[:, :, i] = cut
            w[:, :, part.stop :] -= gone @ factors[:, part, part.stop :]
        return kept, (w * kept).to(weight.dtype)


def refresh_batch_norms_(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Take batch-norm statistics anew over the images of all processes, in place."""
    training = model.training
    with torch.no_grad():
        update_bn((x for x, _ in batches), model)
    Ranks.current().mean_(model.buffers())
    model.train(training)


def _inverse_factor(a: Tensor, damping: float) -> Tensor:
    """Upper U with UᵀU = (a + damping)⁻¹, [K, K]; an input that never spoke counts as its own."""
    diagonal = a.diagonal()
    dead = diagonal == 0
    h = a + torch.diag(damping * diagonal.mean() + dead.to(a.dtype))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True)


def _diagonal(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2)


def _summed(moments: list[Gram]) -> Gram:
    first, *others = moments
    for m in others:
        first = Gram(first.inputs + m.inputs, first.cross + m.cross, first.energy + m.energy)
    return first


@dataclass(frozen=True, kw_only=True)
class OneShotOptions(Options):
    """Options of pruning without training."""

    images: int = setting(512, "Training images that layers are calibrated on.", least=1)
    ridge: float = setting(
        0.01, "Weight of the closed-form re-fit's penalty; 0: no re-fit.", least=0
    )
    refresh: bool = setting(True, "Take batch-norm statistics anew over those images.")
    reinit: str = setting(
        NONE, "orthp: kept weights are made orthogonal instead of re-fitted, for training after.",
        choices=(NONE, ORTHP),
    )  # fmt: skip
    allocation: str = setting(
        "uniform", "Who gets how much, layer by layer.", choices=tuple(ALLOCATIONS)
    )


@dataclass(frozen=True, kw_only=True)
class MagnitudeOptions(OneShotOptions):
    """Those of magnitude, for which all layers may compete."""

    allocation: str = setting(
        GLOBAL, "Who gets how much: all weights compete, or layer by layer.",
        choices=(GLOBAL, *ALLOCATIONS),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SecondOrderOptions(OneShotOptions):
    """Those of second order."""

    block: int = setting(128, "Columns whose masks are chosen together.", least=1)
    damping: float = setting(0.01, "Share of H's mean diagonal that is added to it.", above=0)


def _make(o: OneShotOptions, task: Task, rule: LayerRule | None) -> OneShot:
    orthp = o.reinit == ORTHP
    if orthp and not task.n_steps:
        raise ConfigError(
            "--method-set reinit orthp forgets what the weights have learned, so that training "
            "must follow; give --epochs, or leave it out"
        )
    return OneShot(
        task.target,
        lambda: task.batches(o.images),
        rule=rule,
        allocation=o.allocation,
        ridge=0.0 if orthp else o.ridge,
        orthp=orthp,
        refresh=o.refresh,
        progress=task.progress,
    )


_BECAUSE = "it keeps what a trained dense network computes, layer by layer"
MAGNITUDE = MethodInfo(
    title="one shot by |w|, then the closed-form re-fit",
    source="Han et al. 2015, arXiv 1506.02626; re-fit: ours",
    make=lambda o, task: _make(o, task, None),
    options=MagnitudeOptions,
    starts=("dense", "sparse"),
    because="it keeps what a trained network computes, layer by layer",
    without_training=True,
)
WANDA = MethodInfo(
    title="one shot by |w|·‖x‖, then the closed-form re-fit",
    source="Sun et al. 2023, arXiv 2306.11695; re-fit: ours",
    make=lambda o, task: _make(o, task, wanda),
    options=OneShotOptions,
    starts=("dense",),
    because=_BECAUSE,
    without_training=True,
)
SECOND_ORDER = MethodInfo(
    title="one shot by second-order cost, then the closed-form re-fit",
    source="Frantar & Alistarh 2023, arXiv 2301.00774; re-fit: ours",
    make=lambda o, task: _make(o, task, SecondOrder(o.block, o.damping)),
    options=SecondOrderOptions,
    starts=("dense",),
    because=_BECAUSE,
    without_training=True,
)
