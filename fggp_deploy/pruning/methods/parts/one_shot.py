"""One-shot pruning, layer by layer, with a closed-form re-fit: what its methods share."""

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
from fggp_deploy.pruning.allocation import ALLOCATIONS, GLOBAL
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.method import Batch, Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.at_start import AtStart, without_smallest
from fggp_deploy.pruning.methods.parts.calibration import Gram, by_group, gram, in_order
from fggp_deploy.pruning.methods.parts.reinit import NONE, ORTHP, orthogonalise_
from fggp_deploy.pruning.methods.parts.ridge import refit
from fggp_deploy.pruning.methods.state import PruningState

NEEDS_DENSE = "it keeps what a trained dense network computes, layer by layer"
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


def refresh_batch_norms_(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Take batch-norm statistics anew over the images of all processes, in place."""
    training = model.training
    with torch.no_grad():
        update_bn((x for x, _ in batches), model)
    Ranks.current().mean_(model.buffers())
    model.train(training)


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

    def one_shot(self, rule: LayerRule | None, task: Task) -> OneShot:
        """The method with these options; `rule` None chooses by magnitude."""
        orthp = self.reinit == ORTHP
        if orthp and not task.n_steps:
            raise ConfigError(
                "--method-set reinit orthp forgets what the weights have learned, so that training "
                "must follow; give --epochs, or leave it out"
            )
        return OneShot(
            task.target,
            lambda: task.batches(self.images),
            rule=rule,
            allocation=self.allocation,
            ridge=0.0 if orthp else self.ridge,
            orthp=orthp,
            refresh=self.refresh,
            progress=task.progress,
        )
