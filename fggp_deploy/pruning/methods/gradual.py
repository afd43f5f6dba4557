"""Gradual pruning: a criterion on a schedule, without regrowth."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fggp_deploy.errors import ConfigError, FggpWarning, UnknownName
from fggp_deploy.pruning.allocation import ALLOCATIONS, GLOBAL, Given
from fggp_deploy.pruning.criteria import Criterion, remark
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.method import Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.blocks import InBlocks, of_inputs
from fggp_deploy.pruning.methods.parts.choice import Choice
from fggp_deploy.pruning.methods.parts.floors import drop_above_floors
from fggp_deploy.pruning.methods.parts.reinit import NONE, ORTHP, REWIND, Reinit
from fggp_deploy.pruning.methods.state import PruningState
from fggp_deploy.pruning.patterns import width_of
from fggp_deploy.pruning.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class GradualOptions(Options):
    """Options of all gradual methods."""

    allocation: str = setting(
        GLOBAL,
        "How many weights each layer loses: all weights compete (global), all layers lose the same "
        "fraction (uniform), or each keeps its Erdős–Rényi-kernel density (erk).",
        choices=(GLOBAL, *ALLOCATIONS),
    )
    reinit: str = setting(
        NONE, "Kept weights after the last update: unchanged, made orthogonal, or rewound to the "
        "start.", choices=(NONE, ORTHP, REWIND),
    )  # fmt: skip

    def allocate(self, task: Task) -> str | Given:
        """The densities of the run if there are any, else `allocation`."""
        return Given(task.densities) if task.densities else self.allocation

    def gradual(self, criterion: Criterion, task: Task) -> Gradual:
        """Gradual pruning by the criterion, with the run's schedule and options."""
        return self.then_reinit(
            Gradual(criterion, task.schedule, allocation=self.allocate(task), pattern=task.pattern)
        )

    def then_reinit(self, method: Gradual) -> Gradual:
        """The method, with `reinit` set by the options."""
        method.reinit = Reinit(self.reinit)
        return method


class Gradual:
    """Removes weights by `criterion` to the sparsity of `schedule`.

    After an update at step t, exactly round(sparsity(t)·N*) of the N* prunable weights are removed.
    With `allocation` "global" the criterion chooses among all weights at once. Otherwise it chooses
    within each layer, which keeps the number of weights that the allocation gives it.
    With `pattern` "1x4" whole blocks of four consecutive inputs are removed (see parts.blocks). The
    number of removed weights is then at most round(sparsity(t)·N*) and less than four below it; it
    is exact if that is a multiple of four and all blocks are full.
    If any gradient is not finite (a loss-scaler overflow), the update waits for the next step.

    Attribute `reinit`: what happens to the kept weights after the last update (reinit.Reinit); by
    default nothing.
    """

    def __init__(
        self,
        criterion: Criterion,
        schedule: Schedule,
        *,
        allocation: str | Given = GLOBAL,
        pattern: str | None = None,
    ) -> None:
        if isinstance(allocation, str) and allocation not in (GLOBAL, *ALLOCATIONS):
            raise UnknownName("allocation", allocation, (GLOBAL, *ALLOCATIONS))
        self.criterion = criterion
        self.schedule = schedule
        self.allocation = allocation
        self.width = width_of(pattern)
        self.reinit = Reinit(NONE)
        self._pending = False
        self._remarked = False
        self._warned_unused = False
        self._reinit_due = False

    def start(self, state: PruningState) -> None:
        """Apply the initial masks; raises LayerCollapse if the target leaves too few weights."""
        self._floors(state)
        state.zero_removed_()
        self.reinit.after_step(state, 0)

    def after_backward(self, state: PruningState, step: int) -> None:
        """At an update step, choose weights and remove them.

        Raises LayerCollapse if the floors leave too few weights, or if a layer would be empty.
        """
        if not (self._pending or self.schedule.is_update(step)):
            return
        self._pending = not state.grads_are_finite()
        if self._pending:
            return
        n_removed = state.masks.n_removed
        sparsity = self.schedule.sparsity(step)
        n_drop = round(sparsity * state.masks.n_total) - n_removed
        if n_drop <= 0:
            return
        criterion, least, n_alive = (
            self.criterion_at(step),
            self._floors(state),
            state.masks.n_alive,
        )
        choice = self._choice(criterion, state)
        self._warn_of_unused(choice, step)
        alive = choice.alive.clone()
        left = 0  # weights that whole blocks fell short of; the next part removes them
        for layers, n in self._shares(state, sparsity, n_drop):
            self._remark(criterion, step, sum(n_alive[name] for name in layers), n)
            can = sum(n_alive[name] - least[name] for name in layers)
            n_now = n + min(left, max(0, can - n))
            gone, held = drop_above_floors(choice, choice.alive, layers, least, n_now)
            state.hold(held, least, when=f"update at step {step}")
            alive &= ~gone
            left += n - int(gone.count_nonzero())
        if left < n_drop:
            state.set_masks(MaskSet.unflatten(alive, state.masks), when=f"step {step}")
            self._reinit_due = self.reinitializes(step)

    def after_step(self, state: PruningState, step: int) -> None:
        """Keep removed weights at zero; after the last update, reinitialize the kept ones."""
        state.zero_removed_()
        self.reinit.after_step(state, step)
        if self._reinit_due:
            self._reinit_due = False
            self.reinit.apply_(state)

    def finish(self, state: PruningState) -> MaskSet:
        """The masks; raises ConfigError if the schedule did not reach its end."""
        want = round(self.schedule.sparsity(self.schedule.last_update) * state.masks.n_total)
        missing = want - state.masks.n_removed
        if self.schedule.last_update and not 0 <= missing < self.width:
            raise ConfigError(
                f"the schedule ends at step {self.schedule.last_update} with {want} weights "
                f"removed, but only {state.masks.n_removed} are; train to its end and call "
                f"after_backward() in every step before finish()"
            )
        state.zero_removed_()
        return state.masks

    def state_dict(self) -> dict[str, Any]:
        """Whether an update is pending, whether the warning was given, and the rewind snapshot."""
        own = {"pending": self._pending, "remarked": self._remarked}
        return own | self.reinit.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        self._pending, self._remarked = bool(state["pending"]), bool(state["remarked"])
        self.reinit.load_state_dict(state)

    def reinitializes(self, step: int) -> bool:
        """True if `reinit` follows the update at this step: by default only the last one."""
        return step >= self.schedule.last_update

    def criterion_at(self, step: int) -> Criterion:
        """The criterion of an update at this step; subclasses may vary it."""
        return self.criterion

    def gradients(self, state: PruningState) -> Tensor:
        """The gradient that the criterion reads, [P]; subclasses may average it."""
        return state.flat_grads()

    def on_units(
        self, criterion: Criterion, state: PruningState, names: Iterable[str]
    ) -> Criterion | InBlocks:
        """The criterion for the weights of these parameters, or for their blocks."""
        if self.width == 1:
            return criterion
        users = {id(getattr(m, "weight", None)): m for m in state.model.modules()}
        params = [state.params[n] for n in names]
        return InBlocks(criterion, [of_inputs(p, users.get(id(p)), self.width) for p in params])

    def _floors(self, state: PruningState) -> dict[str, int]:
        """The layer floors for the end of the schedule."""
        return state.floors(self.schedule.sparsity(self.schedule.last_update))

    def _choice(self, criterion: Criterion, state: PruningState) -> Choice:
        return Choice(
            on_units=lambda criterion, names: self.on_units(criterion, state, names),
            criterion=criterion,
            weights=state.flat_weights(),
            gradients=self.gradients(state),
            alive=state.masks.flatten(),
            layers=state.layers,
        )

    def _warn_of_unused(self, choice: Choice, step: int) -> None:
        if choice.unused and not self._warned_unused:
            self._warned_unused = True
            which, fix = ", ".join(sorted(choice.unused)), ""
            if len(choice.unused) == len(choice.layers):
                which = "every prunable weight"
                fix = "; call after_backward() between backward() and zero_grad()"
            warnings.warn(
                f"update at step {step}: {which} has no gradient, so its weights are chosen by "
                f"magnitude{fix}",
                FggpWarning,
                stacklevel=4,
            )

    def _shares(
        self, state: PruningState, sparsity: float, n_drop: int
    ) -> list[tuple[dict[str, slice], int]]:
        """Groups of layers that compete, and how many weights each group loses."""
        layers = state.layers
        if self.allocation == GLOBAL:
            return [(layers, n_drop)]
        own = self.allocation
        keep = state.kept_by(
            own if isinstance(own, Given) else ALLOCATIONS[own],
            sparsity,
            target=self.schedule.sparsity(self.schedule.last_update),
        )
        return [({n: part}, state.masks.n_alive[n] - keep[n]) for n, part in layers.items()]

    def _remark(self, criterion: Criterion, step: int, n_alive: int, n_drop: int) -> None:
        text = remark(criterion, n_alive, n_drop)
        if text and not self._remarked:
            self._remarked = True
            warnings.warn(f"update at step {step}: {text}", FggpWarning, stacklevel=4)
