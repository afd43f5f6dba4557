"""Gradual pruning: a criterion on a schedule, permanent, no regrowth."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from fggp_deploy.criteria import Criterion
from fggp_deploy.errors import ConfigError, FggpWarning, LayerCollapse
from fggp_deploy.masks import MaskSet
from fggp_deploy.methods.state import PruningState
from fggp_deploy.schedules import Schedule


class Gradual:
    """Drop by `criterion`, when and to the sparsity that `schedule` says, over all weights at once.

    After an update at step t exactly round(sparsity(t)·N*) of the N* prunable weights are removed.
    Where any of the optimiser's gradients is not finite (a loss-scaler overflow), the update waits
    for the next step.
    """

    def __init__(self, criterion: Criterion, schedule: Schedule) -> None:
        self.criterion = criterion
        self.schedule = schedule
        self._pending = False
        self._remarked = False

    def start(self, state: PruningState) -> None:
        """Apply the masks that the run starts from."""
        state.zero_removed_()

    def after_backward(self, state: PruningState, step: int) -> None:
        """At an update step, choose and drop; raises LayerCollapse when a layer would be empty."""
        if not (self._pending or self.schedule.is_update(step)):
            return
        self._pending = not state.grads_are_finite()
        if self._pending:
            return
        alive = state.masks.flatten()
        n_removed = state.masks.n_removed
        n_alive = alive.numel() - n_removed
        n_drop = round(self.schedule.sparsity(step) * alive.numel()) - n_removed
        if n_drop <= 0:
            return
        self._remark(step, n_alive, n_drop)
        w, g = state.flat_weights(), state.flat_grads()
        alive[self.criterion.drop(w, g, alive, n_drop)] = False
        masks = MaskSet.unflatten(alive, state.masks)
        if empty := set(masks.empty_layers()) - set(state.masks.empty_layers()):
            raise LayerCollapse(
                f"step {step} would remove every weight of {', '.join(sorted(empty))}; keep it "
                f"with --keep-dense, lower the target, or use more updates"
            )
        state.masks = masks

    def after_step(self, state: PruningState, step: int) -> None:
        """Keep the removed at zero."""
        state.zero_removed_()

    def finish(self, state: PruningState) -> MaskSet:
        """The masks; raises ConfigError when the schedule was not run to its end."""
        want = round(self.schedule.sparsity(self.schedule.last_update) * state.masks.n_total)
        if self.schedule.last_update and state.masks.n_removed != want:
            raise ConfigError(
                f"the schedule ends at step {self.schedule.last_update} with {want} weights "
                f"removed, but {state.masks.n_removed} are; train to its end, with "
                f"after_backward() in every step, before finish()"
            )
        state.zero_removed_()
        return state.masks

    def state_dict(self) -> dict[str, Any]:
        """Whether an update waits for a good step, and whether the one warning was given."""
        return {"pending": self._pending, "remarked": self._remarked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._pending, self._remarked = bool(state["pending"]), bool(state["remarked"])

    def _remark(self, step: int, n_alive: int, n_drop: int) -> None:
        remark = self.criterion.remark(n_alive, n_drop)
        if remark and not self._remarked:
            self._remarked = True
            warnings.warn(f"update at step {step}: {remark}", FggpWarning, stacklevel=4)
