"""Feather and ST-3: thresholded weights in the forward pass, straight-through gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.at_start import flat, without_smallest_above_floors
from fggp_deploy.pruning.methods.state import PruningState
from fggp_deploy.pruning.schedules import Schedule


def shrink(w: Tensor, threshold: float, power: float) -> Tensor:
    """sign(w)·max(|w|ᵖ − Tᵖ, 0)^(1/p), of any shape; p = 1 is soft thresholding, ∞ hard.

    >>> shrink(torch.tensor([-5.0, 4.0, 3.0]), 4.0, 2.0).round(decimals=4).tolist()
    [-3.0, 0.0, 0.0]
    """
    if power == float("inf"):
        return torch.where(w.abs() > threshold, w, 0)
    if power == 1:
        return w.sign() * (w.abs() - threshold).clamp_(min=0)
    ratio = (threshold / w.abs()).clamp_(max=1).nan_to_num_(nan=1.0)  # 0/0 if both are zero
    return w * (1 - ratio.pow_(power)).pow_(1 / power)


@dataclass(frozen=True, kw_only=True)
class FeatherOptions(Options):
    """Feather's options."""

    power: float = setting(
        3.0, "p of the threshold function; 1: soft (ST-3), inf: hard.", least=1,
    )  # fmt: skip
    theta: float = setting(
        0.5, "Factor of the gradients of weights below the threshold; 1: none.", least=0, most=1
    )
    every: int = setting(
        8, "Steps between two choices of the threshold; the last step always chooses.", least=1
    )
    until: float = setting(
        1.0, "Fraction of the run's steps after which the mask is fixed.", above=0, most=1
    )


class Feather:
    """Thresholds a copy of the weights for the forward pass; gradients reach every weight.

    A step's network has f(w) = sign(w)·max(|w|ᵖ − Tᵖ, 0)^(1/p) in place of w, with T the largest
    of the round(s_t·N*) smallest |w| over all layers at sparsity s_t of `schedule`; a layer that is
    held at its floor (allocation.floors) has a smaller T of its own. The gradient
    of f(w) goes to w unchanged, times `theta` for weights below the threshold, so that they can
    come back. T is chosen every `every` steps and stays the same in between. After step
    `last_update` the mask stays, and f(w) becomes the weight. With θ = 0 and p = ∞ a weight below
    the threshold does not move, as in gradual magnitude pruning; it comes back only if kept ones
    shrink below it.

    Between steps the model holds f(w); w itself is kept here and lent to the model for the
    optimizer's step. Initial zeros stay zero. Gradients must be unscaled.

    Source: Glentis Georgoulakis et al. 2023 (arXiv 2310.02448), with p = 1 and θ = 1: ST-3,
    Vanderschueren & De Vleeschouwer 2023 (arXiv 2212.01076). There T is chosen in every step.
    """

    def __init__(
        self,
        schedule: Schedule,
        last_update: int,
        *,
        power: float = 3.0,
        theta: float = 0.5,
        every: int = 8,
    ) -> None:
        if last_update < schedule.last_update:
            raise ConfigError(
                f"the masks would become fixed at step {last_update}, before the schedule ends at "
                f"step {schedule.last_update}; give a larger `until`"
            )
        self.schedule = schedule
        self.last_update = last_update
        self.power = power
        self.theta = theta
        self.every = every
        self._all: MaskSet | None = None  # the weights that the network started with
        self._dense: dict[str, Tensor] = {}  # w; empty once the mask is fixed
        self._thresholds: dict[str, float] = {}
        self._lent = False

    def start(self, state: PruningState) -> None:
        """Apply the initial masks, and keep a copy of the weights."""
        state.floors(self._end)  # raises if the target leaves too few weights
        state.zero_removed_()
        self._all = state.masks
        self._dense = {n: state.params[n].detach().clone() for n in state.masks}

    @torch.no_grad()
    def after_backward(self, state: PruningState, step: int) -> None:
        """Scale the gradients of weights below the threshold, and lend the optimizer the weights.

        Nothing happens if a gradient is not finite: a loss scaler skips that step.
        """
        if not self._dense or not state.grads_are_finite():
            return
        for name, w in self._dense.items():
            p = state.params[name]
            if p.grad is not None and self.theta < 1:
                p.grad.mul_(torch.where(state.masks[name], 1.0, self.theta))
            p.copy_(w)
        self._lent = True

    @torch.no_grad()
    def after_step(self, state: PruningState, step: int) -> None:
        """Take the weights back, and apply the threshold to them again."""
        if self._lent:
            for name, w in self._dense.items():
                w.copy_(state.params[name])
            self._lent = False
        if not self._dense:
            state.zero_removed_()
            return
        assert self._all is not None  # set by start or load_state_dict
        self._all.apply_(self._dense)
        last = step >= self.last_update
        if last or step % self.every == 0 or self.schedule.is_update(step):
            self._choose(state, step)
        else:
            self._follow(state, step)
        for name, w in self._dense.items():
            state.params[name].copy_(shrink(w, self._thresholds.get(name, 0.0), self.power))
        state.masks.apply_(state.params)
        if last:
            self._dense = {}
            state.zero_removed_()

    def finish(self, state: PruningState) -> MaskSet:
        """The last threshold's masks; raises ConfigError if the run ended before its last step."""
        if self._dense:
            raise ConfigError(
                f"the masks are fixed at step {self.last_update}; train to it before finish()"
            )
        return state.masks

    def state_dict(self) -> dict[str, Any]:
        """The weights, the thresholds, and the initial masks."""
        assert self._all is not None  # set by start or load_state_dict
        return {"dense": self._dense, "thresholds": self._thresholds, "all": dict(self._all)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        self._dense = {n: t.clone() for n, t in state["dense"].items()}
        self._thresholds = dict(state["thresholds"])
        self._all = MaskSet(state["all"])

    def _follow(self, state: PruningState, step: int) -> None:
        """Set the masks to the weights above T, or choose T again if a layer is below its floor."""
        assert self._all is not None  # set by start or load_state_dict
        above = {n: w.abs() > self._thresholds.get(n, 0.0) for n, w in self._dense.items()}
        masks = MaskSet({n: keep & self._all[n] for n, keep in above.items()})
        least = state.floors(self._end, masks=self._all)
        if any(alive < least[n] for n, alive in masks.n_alive.items()):
            self._choose(state, step)
        else:
            state.set_masks(masks, when=f"step {step}")

    def _choose(self, state: PruningState, step: int) -> None:
        """Set T and the masks so that exactly round(s·N*) weights are removed."""
        assert self._all is not None  # set by start or load_state_dict
        n_drop = round(self.schedule.sparsity(step) * self._all.n_total) - self._all.n_removed
        sizes = flat(self._all, self._dense).abs_()
        masks, held = without_smallest_above_floors(
            state, self._all, sizes, max(0, n_drop), target=self._end, when=f"step {step}"
        )
        tops = {n: float((w.abs() * ~masks[n]).max()) for n, w in self._dense.items()}
        all_compete = max((t for n, t in tops.items() if n not in held), default=0.0)
        self._thresholds = {n: t if n in held else all_compete for n, t in tops.items()}
        state.set_masks(masks, when=f"step {step}")

    @property
    def _end(self) -> float:
        return self.schedule.sparsity(self.schedule.last_update)


def _make(o: FeatherOptions, task: Task) -> Method:
    last = max(1, round(o.until * task.n_steps))
    return Feather(task.schedule, last, power=o.power, theta=o.theta, every=o.every)


METHOD = MethodInfo(
    title="thresholded weights, straight-through gradients",
    source="Glentis Georgoulakis et al. 2023, arXiv 2310.02448; ST-3: arXiv 2212.01076",
    make=_make,
    options=FeatherOptions,
    reads=("updates",),
    keeps="the weights before the threshold",
)
