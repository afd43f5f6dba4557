"""GraSP: one-shot pruning at initialization that preserves the gradient flow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.method import MethodInfo, Task
from fggp_deploy.pruning.methods.options import setting
from fggp_deploy.pruning.methods.parts.at_start import AtStart, flat
from fggp_deploy.pruning.methods.parts.gradients import Batches, ScoreOptions, mean_gradients
from fggp_deploy.pruning.methods.state import PruningState


class GraSP(AtStart):
    """Gradient signal preservation: drop the largest −w·Hg, which reduces the gradient flow least.

    H is the Hessian of the mean cross-entropy of logits / `temperature`, and g its gradient; in a
    sparse network both are over the weights that are left. In each of several processes, batch
    norms see only its own images, even if they are synced in training.

    Source: Wang, Zhang & Grosse 2020 (arXiv 2002.07376), eq. 8; the public code uses temperature
    200.
    """

    def __init__(self, target: float, batches: Batches, *, temperature: float = 200.0) -> None:
        super().__init__(target)
        self.batches = batches
        self.temperature = temperature

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Score all layers once, and drop the largest."""
        batches = self.batches()
        with _twice_differentiable(state.model):
            grads = mean_gradients(state, batches, temperature=self.temperature)
            alive = {n: g * state.masks[n] for n, g in grads.items()}
            products = mean_gradients(state, batches, along=alive, temperature=self.temperature)
        scores = {n: state.params[n] * hg for n, hg in products.items()}
        return self.drop_smallest(state, flat(state.masks, scores), n_drop)


@contextlib.contextmanager
def _twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Within, attention is not fused and batch norms are not synced over processes.

    Fused attention and synced batch norms have no second derivative.
    """
    synced = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    try:
        for m in synced:
            m.forward = partial(nn.BatchNorm1d.forward, m)  # type: ignore[method-assign]
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for m in synced:
            del m.forward


@dataclass(frozen=True, kw_only=True)
class GraSPOptions(ScoreOptions):
    """GraSP's options."""

    temperature: float = setting(200.0, "Divisor of the logits.", above=0)


def _make(o: GraSPOptions, task: Task) -> GraSP:
    return GraSP(task.target, lambda: task.batches(o.images), temperature=o.temperature)


METHOD = MethodInfo(
    title="one shot by −w·Hg at initialization",
    source="Wang, Zhang & Grosse 2020, arXiv 2002.07376",
    make=_make,
    options=GraSPOptions,
    starts=("random", "dense", "sparse"),
)
