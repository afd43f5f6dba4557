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
    """Gradient signal preservation: drop the largest −w·Hg, which costs the gradient flow least.

    H is the Hessian of the mean cross-entropy of logits / `temperature`, g its gradient; of a
    network that is sparse already, both by the weights that are left. Of several processes each
    one's batch norms see its own images, also where they are synced in training.

    Source: Wang, Zhang & Grosse 2020 (arXiv 2002.07376), eq. 8; temperature 200 is public code's.
    """

    def __init__(self, target: float, batches: Batches, *, temperature: float = 200.0) -> None:
        super().__init__(target)
        self.batches = batches
        self.temperature = temperature

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Score once, over all layers."""
        batches = self.batches()
        with _twice_differentiable(state.model):
            grads = mean_gradients(state, batches, temperature=self.temperature)
            alive = {n: g * state.masks[n] for n, g in grads.items()}
            products = mean_gradients(state, batches, along=alive, temperature=self.temperature)
        scores = {n: state.params[n] * hg for n, hg in products.items()}
        return self.drop_smallest(state, flat(state.masks, scores), n_drop)


@contextlib.contextmanager
def _twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Attention in parts and batch norms by each process's own share within.

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

    temperature: float = setting(200.0, "What the logits are divided by.", above=0)


def _make(o: GraSPOptions, task: Task) -> GraSP:
    return GraSP(task.target, lambda: task.batches(o.images), temperature=o.temperature)


METHOD = MethodInfo(
    title="one shot by −w·Hg at initialisation",
    source="Wang, Zhang & Grosse 2020, arXiv 2002.07376",
    make=_make,
    options=GraSPOptions,
    starts=("random", "dense", "sparse"),
)
