"""GReg-1 and GReg-2: a penalty on weights that grows until they can go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import ALLOCATIONS, GLOBAL
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.at_start import (
    without_smallest,
    without_smallest_above_floors,
)
from fggp_deploy.pruning.methods.parts.filters import Channels, channels
from fggp_deploy.pruning.methods.parts.reinit import NONE, ORTHP, REWIND, Reinit
from fggp_deploy.pruning.methods.state import PruningState

FILTER, WEIGHT = "filter", "weight"


@dataclass(frozen=True)
class Growth:
    """λ at iteration t: start + growth·⌊t/every⌋, at most `ceiling`.

    >>> Growth(every=10, growth=0.25, ceiling=1.0).at(25)
    0.5
    """

    every: int
    growth: float
    ceiling: float
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.every < 1 or self.growth <= 0 or self.ceiling <= self.start:
            raise ConfigError(
                f"a penalty grows every 1 or more iterations, by more than 0, to a ceiling above "
                f"{self.start:g}; got every {self.every}, growth {self.growth:g}, ceiling "
                f"{self.ceiling:g}"
            )

    @property
    def length(self) -> int:
        """Iterations until the ceiling is reached."""
        return self.every * math.ceil((self.ceiling - self.start) / self.growth - 1e-9)

    def at(self, t: int) -> float:
        """λ after t iterations."""
        return min(self.ceiling, self.start + self.growth * (t // self.every))


class GrowingReg:
    """Adds λ∘w to the gradient, with a λ that grows, then removes what it was to remove.

    The set to remove is chosen once, by magnitude. Until then all weights have the λ of `together`
    (GReg-2; None: the set is chosen at the start, GReg-1); from then on the chosen have that of
    `push` and the kept −`encourage`. After `hold` more iterations the chosen go, and there is no
    penalty any more.

    `window`: the optimiser step at which they go. The method's `length` iterations are fitted to
    it, step t being iteration ⌊t·length/window⌋, so that any run goes through all of them; with
    `literal` step t is iteration t, the chosen go at step `length`, and a ConfigError tells where
    the window is shorter.

    `granularity` "filter": λ and removal by whole filters, with all that writes to the same
    channel (filters.Channels, for images of `input_shape`), and with their biases and batch norms,
    which get the filters' λ too: behind a batch norm a smaller filter alone changes nothing. At
    most one filter is cut in part, so that the count is exact. `allocation`: who loses how much,
    as Gradual has it; filters all compete.

    `reinit`: what the kept weights become then (reinit.Reinit); None: they stay.

    The gradients must not be scaled. Source: Wang et al. 2021 (arXiv 2012.09243), algorithms 1 and
    2; ours: fitting to a window, and λ on batch norms.
    """

    def __init__(
        self,
        target: float,
        push: Growth,
        *,
        window: int,
        hold: int,
        together: Growth | None = None,
        encourage: float = 0.0,
        literal: bool = False,
        granularity: str = WEIGHT,
        allocation: str = GLOBAL,
        input_shape: tuple[int, ...] = (),
        reinit: Reinit | None = None,
    ) -> None:
        if granularity == FILTER and allocation != GLOBAL:
            raise ConfigError(
                f"granularity filter goes with allocation global only, got {allocation}: filters "
                f"of several layers that are summed go together, so that no layer has its own count"
            )
        if granularity == FILTER and not input_shape:
            raise ConfigError("whole filters need the shape of an image; give it, or a batch")
        self.target = target
        self.push, self.hold = push, hold
        self.together, self.encourage = together, encourage
        self.granularity, self.allocation = granularity, allocation
        self.input_shape = input_shape
        self.window, self.literal = window, literal
        if literal and self.length > window:
            raise ConfigError(
                f"{self.length} iterations of growing and holding do not fit into the {window} "
                f"steps in which masks may change; give more --epochs, or leave `literal` out to "
                f"have them fitted"
            )
        self._chosen: dict[str, Tensor] | None = None  # masks, True = to be kept
        self.reinit = reinit or Reinit(NONE)
        self._due = False
        self._channels: Channels | None = None
        self._going: list[tuple[Tensor, Tensor]] | None = None

    @property
    def picks_at(self) -> int:
        """The iteration at which the set is chosen."""
        return self.together.length if self.together else 0

    @property
    def length(self) -> int:
        """Iterations until the chosen go."""
        return self.picks_at + self.push.length + self.hold

    def iteration(self, step: int) -> int:
        """The method's iteration at an optimiser step."""
        return step if self.literal else step * self.length // self.window

    def penalties(self, t: int) -> tuple[float, float]:
        """λ of what is to go and λ of what stays, at iteration t."""
        if self.together is not None and t < self.picks_at:
            return self.together.at(t), self.together.at(t)
        return self.push.at(t - self.picks_at), -self.encourage

    def start(self, state: PruningState) -> None:
        """GReg-1: choose."""
        state.floors(self.target)  # raises if the target leaves too few weights
        state.zero_removed_()
        if self.picks_at == 0:
            self._chosen = dict(self._choose(state))
        self.reinit.after_step(state, 0)

    @torch.no_grad()
    def after_backward(self, state: PruningState, step: int) -> None:
        """Choose or remove where that is due; else add λ∘w to the gradients."""
        t = self.iteration(step)
        if self._chosen is None and t >= self.picks_at:
            self._chosen = dict(self._choose(state))
        if self._chosen is not None:  # from a savepoint they come on the CPU
            self._chosen = {n: m.to(state.params[n].device) for n, m in self._chosen.items()}
        if t >= self.length:
            self._remove(state, step)
            return
        gone, kept = self.penalties(t)
        for name, p in state.params.items():
            if p.grad is None:
                continue
            if self._chosen is None or gone == kept:
                p.grad.add_(p, alpha=gone)
            else:
                force = torch.full_like(p, kept)
                p.grad.add_(force.masked_fill_(~self._chosen[name], gone).mul_(p))
        if t < self.picks_at:
            return
        for other, mask in self._silent(state):
            if other.grad is not None:
                other.grad.add_(other * mask, alpha=gone)

    def after_step(self, state: PruningState, step: int) -> None:
        """Keep the removed at zero; where they have just gone, give the kept their new values."""
        state.zero_removed_()
        if self._due:
            self._due = False
            self.reinit.apply_(state)
        self._silence(state)

    def finish(self, state: PruningState) -> MaskSet:
        """The masks; raises ConfigError where the chosen have not gone yet."""
        want = self._n_wanted(state)
        if state.masks.n_removed < want:
            raise ConfigError(
                f"{want} weights are to be removed, at step "
                f"{self.length if self.literal else self.window}, but {state.masks.n_removed} are; "
                f"train to that step, with after_backward() in every step, before finish()"
            )
        state.zero_removed_()
        self._silence(state)
        return state.masks

    def state_dict(self) -> dict[str, Any]:
        """What is chosen; how far the penalty has grown, the step says."""
        return {"chosen": self._chosen} | self.reinit.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        chosen = state["chosen"]
        self._chosen = None if chosen is None else dict(chosen)
        self.reinit.load_state_dict(state)

    def _choose(self, state: PruningState) -> MaskSet:
        """The masks without what is to go, exactly round(target·N*) of N* weights removed."""
        masks, w = state.masks, state.flat_weights().abs_()
        n_drop = self._n_wanted(state) - masks.n_removed
        if n_drop <= 0:
            return masks
        if self.granularity == FILTER:
            return self._channels_of(state).without_smallest(masks, w, n_drop)
        if self.allocation == GLOBAL:
            return without_smallest_above_floors(
                state, masks, w, n_drop, target=self.target, when="choosing what goes"
            )[0]
        alive, kept = masks.n_alive, {}
        keep = state.kept_by(ALLOCATIONS[self.allocation], self.target)
        for name, part in zip(masks, w.split([m.numel() for m in masks.values()]), strict=True):
            one = MaskSet({name: masks[name]})
            kept[name] = without_smallest(one, part, alive[name] - keep[name])[name]
        return MaskSet(kept)

    def _remove(self, state: PruningState, step: int) -> None:
        chosen = self._chosen or {}
        if state.masks.n_removed >= self._n_wanted(state):
            return
        masks = {n: torch.empty_like(m).copy_(chosen[n]) for n, m in state.masks.items()}
        state.set_masks(MaskSet(masks), when=f"step {step}")
        self._due = True

    @torch.no_grad()
    def _silence(self, state: PruningState) -> None:
        """Biases and batch norms of filters that are gone are zero too."""
        if state.masks.n_removed and state.masks.n_removed == self._n_wanted(state):
            for p, mask in self._silent(state):
                p.masked_fill_(mask, 0)

    def _silent(self, state: PruningState) -> list[tuple[Tensor, Tensor]]:
        """Biases and batch norms, and which of their entries go with the chosen filters."""
        if self.granularity != FILTER or self._chosen is None:
            return []
        if self._going is None:
            masks = self._channels_of(state).silent(MaskSet(self._chosen))
            params = {n: state.model.get_parameter(n) for n in masks}
            self._going = [(p, masks[n].to(p.device)) for n, p in params.items()]
        return self._going

    def _n_wanted(self, state: PruningState) -> int:
        return round(self.target * state.masks.n_total)

    def _channels_of(self, state: PruningState) -> Channels:
        if self._channels is None:
            self._channels = channels(state.model, state.params, self.input_shape)
        return self._channels


@dataclass(frozen=True, kw_only=True)
class GReg1Options(Options):
    """GReg-1's options; iterations are literal ones, see `literal`."""

    granularity: str = setting(
        WEIGHT, "What goes: single weights or whole filters.", choices=(WEIGHT, FILTER)
    )
    allocation: str = setting(
        GLOBAL, "Who loses how much: all weights compete, or layer by layer.",
        choices=(GLOBAL, *ALLOCATIONS),
    )  # fmt: skip
    every: int = setting(10, "Iterations from one growth of the penalty to the next.", least=1)
    growth: float = setting(1e-4, "What the penalty of the chosen grows by.", above=0)
    ceiling: float = setting(1.0, "Where their penalty ends.", above=0)
    hold: int = setting(10_000, "Iterations at that penalty before they go.", least=0)
    literal: bool = setting(
        False, "An iteration is a step; else all are fitted to the first 80% of the run."
    )
    reinit: str = setting(
        NONE, "What the kept weights become when the others go: orthogonal, rewound to the start.",
        choices=(NONE, ORTHP, REWIND),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GReg2Options(GReg1Options):
    """GReg-2's options."""

    pick_growth: float = setting(
        1e-5, "What the penalty of all grows by, before any is chosen.", above=0
    )
    pick_ceiling: float = setting(1e-2, "Where it ends, and weights are chosen.", above=0)
    encourage: float = setting(
        1e-4, "The kept weights' penalty is minus this from then on.", least=0
    )


def _make(
    o: GReg1Options, task: Task, push: Growth, together: Growth | None = None, encourage: float = 0
) -> Method:
    return GrowingReg(
        task.target,
        push,
        window=task.schedule.last_update,
        hold=o.hold,
        together=together,
        encourage=encourage,
        literal=o.literal,
        granularity=o.granularity,
        allocation=o.allocation,
        input_shape=task.input_shape,
        reinit=Reinit(o.reinit),
    )


def _greg_1(o: GReg1Options, task: Task) -> Method:
    return _make(o, task, Growth(o.every, o.growth, o.ceiling))


def _greg_2(o: GReg2Options, task: Task) -> Method:
    together = Growth(o.every, o.pick_growth, o.pick_ceiling)
    push = Growth(o.every, o.growth, o.ceiling, start=o.pick_ceiling)
    return _make(o, task, push, together, o.encourage)


_SOURCE = "Wang et al. 2021, arXiv 2012.09243"
_BECAUSE = "it chooses by the magnitude of trained weights"
GREG_1 = MethodInfo(
    title="a growing penalty on the smallest |w|, weights or filters, which then go",
    source=_SOURCE,
    make=_greg_1,
    options=GReg1Options,
    keeps="what it has chosen, with reinit=rewind the weights of the start",
    starts=("dense", "sparse"),
    because=_BECAUSE,
)
GREG_2 = MethodInfo(
    title="GReg-1 after a growing penalty on all, which tells weights apart by curvature",
    source=_SOURCE,
    make=_greg_2,
    options=GReg2Options,
    keeps="what it has chosen, with reinit=rewind the weights of the start",
    starts=("dense", "sparse"),
    because=_BECAUSE,
)
