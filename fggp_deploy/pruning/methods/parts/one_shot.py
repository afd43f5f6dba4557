"""One-shot pruning, layer by layer, with a closed-form re-fit: shared by its methods."""

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
from fggp_deploy.pruning.methods.parts.reinit import NONE, ORTHP, orthogonalize_
from fggp_deploy.pruning.methods.parts.ridge import refit
from fggp_deploy.pruning.methods.state import PruningState

NEEDS_DENSE = "it preserves what a trained dense network computes, layer by layer"
Batches = Callable[[], Sequence[Batch]]


class LayerRule(Protocol):
    """Chooses weights within one layer.

    weight [groups, outputs, K], the layer's moments, number of weights to drop → the kept weights,
    bool of the weight's shape with exactly n_drop False, and the weights, which it may change.
    """

    def __call__(self, weight: Tensor, gram: Gram, n_drop: int) -> tuple[Tensor, Tensor]:
        """Choose the kept weights."""
        ...


class LayerwiseOneShot(AtStart):
    """Prunes layer by layer, in the order of the forward pass, and compares with the dense model.

    Each layer sees the outputs of the layers that were pruned before it. `rule` chooses within each
    layer, which keeps a number of weights by `allocation`. Without a rule the smallest |w| are
    dropped, over all layers at once if `allocation` is "global". With `ridge` > 0, kept weights are
    then re-fitted to the dense layer's outputs (see ridge.refit); with `orthp`, they are made
    orthogonal (see reinit.orthogonal) for the training that follows. With `refresh`, batch-norm
    statistics are computed again.

    `batches()`: calibration images; each of several processes gives its own, all of the same
    number. `progress` counts layers. Raises ConfigError if there are no images, and, with a rule or
    ridge, as calibration.in_order does.

    Source without a rule: Han et al. 2015 (arXiv 1506.02626), section 3: w is kept if |w| > t.
    Their t is a multiple of the layer's standard deviation; here it follows from the number of
    weights to drop, ties by index. Rules name their own sources.
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
            raise ConfigError(
                "a rule that chooses weights within each layer needs an allocation that fixes "
                "each layer's count, got global; give allocation='uniform' or 'erk'"
            )
        self.batches = batches
        self.rule = rule
        self.allocation = allocation
        self.ridge = ridge
        self.refresh = refresh
        self.orthp = orthp
        self.progress = progress

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Prune and re-fit all layers; also changes weights and batch-norm statistics."""
        if self.rule is not None and state.masks.n_removed:
            raise ConfigError(
                f"this method needs a dense network, but {state.masks.n_removed:,} weights of "
                "this one are already removed; give a dense checkpoint, or --method magnitude"
            )
        batches = self.batches()
        if not batches:
            raise ConfigError(
                "pruning without training needs calibration images, got none; give a batch"
            )
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
            orthogonalize_(state.model, state.params, chosen)
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
        """Number of weights that each layer loses by the allocation."""
        if self.allocation == GLOBAL:
            return {}
        keep = state.kept_by(ALLOCATIONS[self.allocation], self.target)
        return {n: alive - keep[n] for n, alive in state.masks.n_alive.items()}


def refresh_batch_norms_(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Compute batch-norm statistics again over the images of all processes, in place."""
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
    """Options of all one-shot methods."""

    images: int = setting(512, "Number of training images for calibration.", least=1)
    ridge: float = setting(0.01, "Penalty of the closed-form re-fit; 0: no re-fit.", least=0)
    refresh: bool = setting(True, "Compute batch-norm statistics again over those images.")
    reinit: str = setting(
        NONE, "orthp: make kept weights orthogonal instead of re-fitting, for training afterwards.",
        choices=(NONE, ORTHP),
    )  # fmt: skip
    allocation: str = setting(
        "uniform", "How many weights each layer keeps.", choices=tuple(ALLOCATIONS)
    )

    def one_shot(self, rule: LayerRule | None, task: Task) -> LayerwiseOneShot:
        """The method with these options; `rule` None chooses by magnitude."""
        orthp = self.reinit == ORTHP
        if orthp and not task.n_steps:
            raise ConfigError(
                "--method-set reinit=orthp replaces the trained weights, so training must "
                "follow; give --epochs, or leave reinit out"
            )
        return LayerwiseOneShot(
            task.target,
            lambda: task.batches(self.images),
            rule=rule,
            allocation=self.allocation,
            ridge=0.0 if orthp else self.ridge,
            orthp=orthp,
            refresh=self.refresh,
            progress=task.progress,
        )
