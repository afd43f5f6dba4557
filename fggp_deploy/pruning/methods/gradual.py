"""Gradual pruning: a criterion on a schedule, permanent, no regrowth."""

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
    """Options of every gradual method."""

    allocation: str = setting(
        GLOBAL,
        "Who loses how much: all weights compete (global), each layer loses the same share "
        "(uniform), or keeps its Erdős–Rényi-kernel density (erk).",
        choices=(GLOBAL, *ALLOCATIONS),
    )
    reinit: str = setting(
        NONE, "What the kept weights become after the last update: orthogonal, rewound to the "
        "start, or as they are.", choices=(NONE, ORTHP, REWIND),
    )  # fmt: skip

    def allocate(self, task: Task) -> str | Given:
        """The densities that the run gives, or else `allocation`."""
        return Given(task.densities) if task.densities else self.allocation

    def gradual(self, criterion: Criterion, task: Task) -> Gradual:
        """The criterion on the run's schedule, with the run's options."""
        return self.then_reinit(
            Gradual(criterion, task.schedule, allocation=self.allocate(task), pattern=task.pattern)
        )

    def then_reinit(self, method: Gradual) -> Gradual:
        """The method, with what the kept weights are to become."""
        method.reinit = Reinit(self.reinit)
        return method


class Gradual:
    """Drop by `criterion`, when and to the sparsity that `schedule` says.

    After an update at step t exactly round(sparsity(t)·N*) of the N* prunable weights are removed.
    `allocation` "global": the criterion chooses among all weights at once; else within each layer,
    which keeps what allocation.ALLOCATIONS[allocation] or a Given gives it, as far as it has as
    many left.
    `pattern` "1x4": blocks of four successive inputs go whole (see blocking.of_inputs, InBlocks).
    Then as many weights are removed as whole blocks allow: at most round(sparsity(t)·N*), fewer
    than four short of it, none short where that is a multiple of four and all blocks are full.
    Where any of the optimiser's gradients is not finite (a loss-scaler overflow), the update waits
    for the next step.

    Attribute `reinit`: what the kept weights become after the step of the last update
    (reinit.Reinit); nothing else unless it is set.
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
        self._told_unused = False
        self._due = False

    def start(self, state: PruningState) -> None:
        """Apply the masks that the run starts from; raises if the target leaves too few weights."""
        self._floors(state)
        state.zero_removed_()
        self.reinit.after_step(state, 0)

    def after_backward(self, state: PruningState, step: int) -> None:
        """At an update step, choose and drop.

        Raises LayerCollapse if the floors leave too few weights, or without floors a layer none.
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
        self._tell_of_unused(choice, step)
        alive = choice.alive.clone()
        left = 0  # by what whole blocks fell short, which the next part makes good
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
            self._due = self.reinitialises(step)

    def after_step(self, state: PruningState, step: int) -> None:
        """Keep the removed at zero; after the last update give the kept their new values."""
        state.zero_removed_()
        self.reinit.after_step(state, step)
        if self._due:
            self._due = False
            self.reinit.apply_(state)

    def finish(self, state: PruningState) -> MaskSet:
        """The masks; raises ConfigError when the schedule was not run to its end."""
        want = round(self.schedule.sparsity(self.schedule.last_update) * state.masks.n_total)
        missing = want - state.masks.n_removed
        if self.schedule.last_update and not 0 <= missing < self.width:
            raise ConfigError(
                f"the schedule ends at step {self.schedule.last_update} with {want} weights "
                f"removed, but {state.masks.n_removed} are; train to its end, with "
                f"after_backward() in every step, before finish()"
            )
        state.zero_removed_()
        return state.masks

    def state_dict(self) -> dict[str, Any]:
        """Whether an update waits, whether the one warning was given, and what to rewind to."""
        own = {"pending": self._pending, "remarked": self._remarked}
        return own | self.reinit.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._pending, self._remarked = bool(state["pending"]), bool(state["remarked"])
        self.reinit.load_state_dict(state)

    def reinitialises(self, step: int) -> bool:
        """Whether `reinit` follows the update at this step: the last, unless a subclass differs."""
        return step >= self.schedule.last_update

    def criterion_at(self, step: int) -> Criterion:
        """The criterion of an update at this step; the same at all, unless a subclass anneals."""
        return self.criterion

    def gradients(self, state: PruningState) -> Tensor:
        """What the criterion reads as gradient, [P]: this step's, unless a subclass averages."""
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
        """Weights that each parameter keeps at least, to the schedule's end."""
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

    def _tell_of_unused(self, choice: Choice, step: int) -> None:
        if choice.unused and not self._told_unused:
            self._told_unused = True
            which, cure = ", ".join(sorted(choice.unused)), ""
            if len(choice.unused) == len(choice.layers):
                which = "every prunable weight"
                cure = "; call after_backward() between backward() and zero_grad()"
            warnings.warn(
                f"update at step {step}: {which} has no gradient, so magnitude decides there{cure}",
                FggpWarning,
                stacklevel=4,
            )

    def _shares(
        self, state: PruningState, sparsity: float, n_drop: int
    ) -> list[tuple[dict[str, slice], int]]:
        """Which layers choose together, and how many weights they lose."""
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
