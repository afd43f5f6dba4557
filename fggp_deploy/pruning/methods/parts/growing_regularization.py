"""A growing L2 penalty on weights, which are then removed: what GReg-1 and GReg-2 share."""

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
from fggp_deploy.pruning.methods.parts.at_start import (
    without_smallest,
    without_smallest_above_floors,
)
from fggp_deploy.pruning.methods.parts.filters import Channels, channels
from fggp_deploy.pruning.methods.parts.reinit import NONE, Reinit
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
                f"a penalty needs every >= 1, growth > 0 and a ceiling above {self.start:g}, its "
                f"start; got every {self.every}, growth {self.growth:g} and ceiling "
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
    """Adds λ∘w to the gradient of chosen weights, with a growing λ, then removes these weights.

    The weights to remove are chosen once, by magnitude. GReg-1 chooses at the start (`together` is
    None). GReg-2 first gives all weights the λ of `together` and then chooses. From then on the
    chosen weights have the λ of `push`, and the kept ones have −`encourage`. After `hold` more
    iterations the chosen weights are removed, and the penalty ends.

    `window`: the optimizer step of the removal. The method's `length` iterations are scaled to it:
    step t is iteration ⌊t·length/window⌋. With `literal`, step t is iteration t and the removal is
    at step `length`; ConfigError if the window is shorter.

    `granularity` "filter": λ and removal apply to whole filters, together with everything that
    writes to the same channel (filters.Channels, for images of `input_shape`) and with their biases
    and batch norms. These get the filters' λ too, because a smaller filter before a batch norm
    alone changes nothing. At most one filter is removed in part, so that the count is exact.
    `allocation`: as in Gradual; filters always compete globally.

    `reinit`: what happens to the kept weights after the removal (reinit.Reinit); None: nothing.

    Gradients must be unscaled. Source: Wang et al. 2021 (arXiv 2012.09243), algorithms 1 and 2.
    Scaling to a window and λ on batch norms are ours.
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
                f"granularity filter needs allocation global, got {allocation}: layers whose "
                "outputs are added lose the same filters, so a layer cannot have its own count; "
                "leave the allocation out"
            )
        if granularity == FILTER and not input_shape:
            raise ConfigError(
                "granularity filter needs the shape of an image, got none; give `input_shape` or "
                "a batch"
            )
        self.target = target
        self.push, self.hold = push, hold
        self.together, self.encourage = together, encourage
        self.granularity, self.allocation = granularity, allocation
        self.input_shape = input_shape
        self.window, self.literal = window, literal
        if literal and self.length > window:
            raise ConfigError(
                f"the penalty grows and holds for {self.length} iterations, but masks may change "
                f"only in the first {window} steps; give more --epochs, or leave `literal` out to "
                "scale the iterations to the run"
            )
        self._chosen: dict[str, Tensor] | None = None  # masks, True means kept
        self.reinit = reinit or Reinit(NONE)
        self._due = False
        self._channels: Channels | None = None
        self._going: list[tuple[Tensor, Tensor]] | None = None

    @property
    def picks_at(self) -> int:
        """The iteration at which the weights are chosen."""
        return self.together.length if self.together else 0

    @property
    def length(self) -> int:
        """Iterations until the chosen weights are removed."""
        return self.picks_at + self.push.length + self.hold

    def iteration(self, step: int) -> int:
        """The method's iteration at an optimizer step."""
        return step if self.literal else step * self.length // self.window

    def penalties(self, t: int) -> tuple[float, float]:
        """λ of the chosen and λ of the kept weights at iteration t."""
        if self.together is not None and t < self.picks_at:
            return self.together.at(t), self.together.at(t)
        return self.push.at(t - self.picks_at), -self.encourage

    def start(self, state: PruningState) -> None:
        """GReg-1 chooses here."""
        state.floors(self.target)  # raises if the target leaves too few weights
        state.zero_removed_()
        if self.picks_at == 0:
            self._chosen = dict(self._choose(state))
        self.reinit.after_step(state, 0)

    @torch.no_grad()
    def after_backward(self, state: PruningState, step: int) -> None:
        """Choose or remove weights if that is due; otherwise add λ∘w to the gradients."""
        t = self.iteration(step)
        if self._chosen is None and t >= self.picks_at:
            self._chosen = dict(self._choose(state))
        if self._chosen is not None:  # a savepoint holds them on the CPU
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
        """Keep removed weights at zero; right after the removal, reinitialize the kept ones."""
        state.zero_removed_()
        if self._due:
            self._due = False
            self.reinit.apply_(state)
        self._silence(state)

    def finish(self, state: PruningState) -> MaskSet:
        """The masks; raises ConfigError if the chosen weights have not been removed yet."""
        want = self._n_wanted(state)
        if state.masks.n_removed < want:
            raise ConfigError(
                f"{want} weights must be removed at step "
                f"{self.length if self.literal else self.window}, but only "
                f"{state.masks.n_removed} are; train to that step and call after_backward() in "
                "every step before finish()"
            )
        state.zero_removed_()
        self._silence(state)
        return state.masks

    def state_dict(self) -> dict[str, Any]:
        """The chosen weights; the penalty follows from the step."""
        return {"chosen": self._chosen} | self.reinit.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        chosen = state["chosen"]
        self._chosen = None if chosen is None else dict(chosen)
        self.reinit.load_state_dict(state)

    def _choose(self, state: PruningState) -> MaskSet:
        """The masks after the removal, with exactly round(target·N*) of N* weights removed."""
        masks, w = state.masks, state.flat_weights().abs_()
        n_drop = self._n_wanted(state) - masks.n_removed
        if n_drop <= 0:
            return masks
        if self.granularity == FILTER:
            return self._channels_of(state).without_smallest(masks, w, n_drop)
        if self.allocation == GLOBAL:
            return without_smallest_above_floors(
                state, masks, w, n_drop, target=self.target, when="choosing weights"
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
        """Set biases and batch norms of removed filters to zero."""
        if state.masks.n_removed and state.masks.n_removed == self._n_wanted(state):
            for p, mask in self._silent(state):
                p.masked_fill_(mask, 0)

    def _silent(self, state: PruningState) -> list[tuple[Tensor, Tensor]]:
        """Biases and batch norms, and which of their entries belong to the chosen filters."""
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
