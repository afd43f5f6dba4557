"""The plan of a pruning run: its mask updates, and how long it will take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from fggp_deploy.common.progress import Progress
from fggp_deploy.pruning.criteria import remark
from fggp_deploy.pruning.methods.gradual import Gradual
from fggp_deploy.pruning.schedules import Constant
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.evaluation import dense_accuracy
from fggp_deploy.training.loop import train_step, training_form
from fggp_deploy.training.prune import prepare_pruning
from fggp_deploy.training.session import Session

_WARM_STEPS, _TIMED_STEPS = 2, 8


@dataclass(frozen=True)
class Update:
    """One mask update: it removes `n_drop` of `n_alive` weights and reaches `sparsity`.

    With a pattern the counts are those of full blocks; shorter blocks may shift them a little.
    """

    step: int
    sparsity: float
    n_alive: int
    n_drop: int

    @property
    def share(self) -> float:
        """The share of the alive weights that it removes."""
        return self.n_drop / self.n_alive


@dataclass(frozen=True)
class PruningPlan:
    """What a run will do.

    `target_steps`: the step at which each of `targets` is kept. `seconds`: of all training steps,
    extrapolated from a few, without validation; `update_seconds`: of one mask update. `remark`: how
    an update departs from what the options ask for. `parent_val_accuracy`: of the dense model, 0 to
    1.
    """

    n_steps: int
    steps_per_epoch: int
    n_prunable: int
    start_sparsity: float
    targets: tuple[float, ...]
    target_steps: tuple[int, ...]
    updates: tuple[Update, ...]
    remark: str | None
    parent_val_accuracy: float | None
    images_per_second: float
    update_seconds: float
    seconds: float

    @property
    def largest(self) -> Update | None:
        """The update that removes the largest share of the alive weights."""
        return max(self.updates, key=lambda u: u.share, default=None)


def plan(config: PruneConfig, *, progress: Progress | None = None) -> PruningPlan:
    """The plan of `prune(config)`; writes nothing. Raises what `prune` would before its first step.

    `progress(what, done, total)` counts images that are checked or decoded.
    """
    session = prepare_pruning(config, progress=progress).session
    dense = dense_accuracy(session)
    method, masks = session.pruner.method, session.pruner.masks
    updates: tuple[Update, ...] = ()
    warning, update_seconds = None, 0.0
    if isinstance(method, Gradual):
        updates = tuple(_updates(method, masks.n_total, masks.n_removed))
        found = (remark(method.criterion_at(u.step), u.n_alive, u.n_drop) for u in updates)
        warning = next((r for r in found if r), None)
        update_seconds = _time_update(session, method, updates)
    start_sparsity = masks.sparsity
    step_seconds = _time_step(session) if session.n_steps else 0.0
    return PruningPlan(
        n_steps=session.n_steps,
        steps_per_epoch=session.steps_per_epoch,
        n_prunable=masks.n_total,
        start_sparsity=start_sparsity,
        targets=config.targets,
        target_steps=tuple(stage.end for stage in session.stages),
        updates=updates,
        parent_val_accuracy=dense,
        remark=warning,
        images_per_second=config.batch_size / step_seconds if step_seconds else 0.0,
        update_seconds=update_seconds,
        seconds=step_seconds * session.n_steps + update_seconds * len(updates),
    )


def _updates(method: Gradual, n_total: int, n_removed: int) -> Iterator[Update]:
    schedule = method.schedule
    for step in filter(schedule.is_update, range(1, schedule.last_update + 1)):
        sparsity = schedule.sparsity(step)
        n_drop = (round(sparsity * n_total) - n_removed) // method.width * method.width
        if n_drop > 0:
            yield Update(step, sparsity, n_total - n_removed, n_drop)
            n_removed += n_drop


def _time_update(s: Session, method: Gradual, updates: tuple[Update, ...]) -> float:
    """Seconds of the first and slowest update; weights stand in for gradients."""
    if not updates:
        return 0.0
    state = s.pruner.state
    choose = method.on_units(method.criterion_at(1), state, state.masks)
    w, alive = state.flat_weights(), state.masks.flatten()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        int(choose.drop(w, w, alive, updates[0].n_drop)[-1])  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _time_step(s: Session) -> float:
    """Median seconds of an ordinary step with its batch; the session cannot be trained after."""
    if isinstance(s.pruner.method, Gradual):
        s.pruner.method.schedule = Constant(s.pruner.masks.sparsity)
    forward = training_form(s)
    shuffled = s.batches(s.data.train).shuffled(s.generator, s.augmentation)
    s.model.train()
    seconds: list[float] = []
    start = time.perf_counter()
    for x, y in shuffled:
        s.position.step += 1
        float(train_step(s, forward, x, y))  # waits for a GPU
        seconds.append(time.perf_counter() - start)
        if len(seconds) == min(_WARM_STEPS + _TIMED_STEPS, s.n_steps):
            break
        start = time.perf_counter()
    return statistics.median(seconds[-_TIMED_STEPS:])
