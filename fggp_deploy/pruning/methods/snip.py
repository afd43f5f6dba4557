"""SNIP: one-shot pruning at initialization by connection sensitivity."""

from __future__ import annotations

from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.method import MethodInfo, Task
from fggp_deploy.pruning.methods.parts.at_start import AtStart, flat
from fggp_deploy.pruning.methods.parts.gradients import Batches, ScoreOptions, mean_gradients
from fggp_deploy.pruning.methods.state import PruningState


class SNIP(AtStart):
    """Single-shot pruning by connection sensitivity: keep the largest |g·w|.

    `batches()`: images and labels; g is the gradient of their mean cross-entropy. Each of several
    processes gives its own images, all of the same number.

    Source: Lee, Ajanthan & Torr 2019 (arXiv 1810.02340), eq. 6.
    """

    def __init__(self, target: float, batches: Batches) -> None:
        super().__init__(target)
        self.batches = batches

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Score all layers once, and drop the smallest."""
        grads = mean_gradients(state, self.batches())
        scores = {n: (g * state.params[n]).abs() for n, g in grads.items()}
        return self.drop_smallest(state, flat(state.masks, scores), n_drop)


def _make(o: ScoreOptions, task: Task) -> SNIP:
    return SNIP(task.target, lambda: task.batches(o.images))


METHOD = MethodInfo(
    title="one shot by |g·w| at initialization",
    source="Lee, Ajanthan & Torr 2019, arXiv 1810.02340",
    make=_make,
    options=ScoreOptions,
    starts=("random", "dense", "sparse"),
)
