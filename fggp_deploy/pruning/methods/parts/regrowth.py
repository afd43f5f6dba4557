"""Exchange of weights at constant sparsity: drop the smallest weights and grow as many others.

Source: Evci et al. 2020, RigL (arXiv 1911.11134), section 3. GraNet's second step is the same
(Liu et al. 2021, arXiv 2106.10404).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import ALLOCATIONS
from fggp_deploy.pruning.criteria import Magnitude, smallest
from fggp_deploy.pruning.masks import MaskSet, random_masks
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.state import PruningState
from fggp_deploy.pruning.schedules import Cosine


@dataclass(frozen=True, kw_only=True)
class RegrowthOptions(Options):
    """Options of all exchanges, with the defaults of RigL's and GraNet's public code."""

    regrow: float = setting(
        0.5, "Initial fraction of each layer's weights that is exchanged; 0: none.", least=0, most=1
    )
    regrow_to: float = setting(0.005, "Final fraction, reached along a cosine.", least=0, most=1)
    until: float = setting(
        1.0, "Fraction of the run's steps in which weights are exchanged.", above=0, most=1
    )

    def share(self, steps: int) -> Cosine:
        """The fraction per step; constant if `regrow` is below the default of `regrow_to`."""
        to = self.regrow_to
        if to == self.defaults()["regrow_to"]:
            to = min(to, self.regrow)
        return Cosine(self.regrow, to, steps)


def exchange(w: Tensor, alive: Tensor, likely: Tensor, n: int) -> Tensor:
    """Drop the n alive with the smallest |w|, then grow the n with the largest `likely`.

    w, likely: float [P], alive: bool [P] → bool [P] with as many True. A weight that is dropped
    and grown at once keeps its value. Ties go to the lower index. Raises ConfigError if fewer than
    n weights are alive.

    >>> w = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0]); alive = w != 0
    >>> exchange(w, alive, torch.tensor([1.0, 1.0, 1.0, 5.0, 9.0]), 1).tolist()
    [False, True, True, False, True]
    """
    after = alive.clone()
    after[Magnitude().drop(w, None, alive, n)] = False
    empty = (~after).nonzero().squeeze(1)
    after[empty[smallest(-likely[empty], n)]] = True
    return after


def exchanged(masks: MaskSet, w: Tensor, likely: Tensor, share: float) -> MaskSet:
    """Exchange ⌈share·nnz⌉ weights within each layer; w, likely: [P] in the masks' order."""
    alive, end = masks.flatten(), 0
    for name, mask in masks.items():
        part = slice(end, end := end + mask.numel())
        n = math.ceil(share * (mask.numel() - masks.removed_by_layer[name]))
        if n and masks.removed_by_layer[name]:  # a dense layer cannot grow
            alive[part] = exchange(w[part], alive[part], likely[part], n)
    return MaskSet.unflatten(alive, masks)


@dataclass(frozen=True)
class Exchanges:
    """When weights are exchanged, and how many: t_j = round(j·until·steps/updates), j = 1, 2, ….

    `share` gives the fraction at each step. Weights are never exchanged in the last step, because
    grown weights could not be trained after it.
    """

    share: Cosine
    updates: int
    until: float = 1.0

    def is_open(self, step: int) -> bool:
        """True while weights are still exchanged."""
        steps = self.share.steps
        return 0 < step <= min(round(self.until * steps), steps - 1)

    def is_due(self, step: int) -> bool:
        """True if weights are exchanged at this step."""
        if not self.is_open(step):
            return False
        end = round(self.until * self.share.steps)
        j = round(step * self.updates / end)  # the update nearest to this step
        return j > 0 and (2 * j * end + self.updates) // (2 * self.updates) == step

    @cached_property
    def last(self) -> int:
        """The last step at which weights are exchanged; 0 if they never are."""
        return next(filter(self.is_due, range(self.share.steps - 1, 0, -1)), 0)


class Dynamic:
    """Dynamic sparse training: masks of constant sparsity that exchange weights (RigL, SET).

    Starts with the network's own masks if they have the target sparsity, otherwise with random
    masks. Each layer keeps its number of weights. `likely(state)`: scores, [P]; the largest grow.
    If the gradients of a step are not finite, the exchange is postponed.
    """

    def __init__(
        self,
        target: float,
        exchanges: Exchanges,
        likely: Callable[[PruningState], Tensor],
        *,
        allocation: str,
        generator: torch.Generator,
    ) -> None:
        self.target = target
        self.exchanges = exchanges
        self.likely = likely
        self.allocation = allocation
        self.generator = generator
        self._pending = False

    @property
    def last_update(self) -> int:
        """The last step at which the masks may change, see method.Late."""
        return self.exchanges.last

    def start(self, state: PruningState) -> None:
        """Draw random masks for a dense network; ConfigError if existing masks do not fit."""
        masks = state.masks
        if not masks.n_removed:
            keep = state.kept_by(ALLOCATIONS[self.allocation], self.target)
            state.set_masks(
                random_masks(state.params, keep, generator=self.generator), when="the random mask"
            )
        elif masks.n_removed != round(self.target * masks.n_total):
            raise ConfigError(
                "this method keeps the number of removed weights constant, but the network "
                f"starts with {masks.n_removed} removed weights and --target {self.target:g} "
                f"means {round(self.target * masks.n_total)}; give --target {masks.sparsity:.6g}"
            )
        state.zero_removed_()

    def after_backward(self, state: PruningState, step: int) -> None:
        """Exchange weights if that is due."""
        if not (self._pending or self.exchanges.is_due(step)):
            return
        self._pending = not state.grads_are_finite()
        if not self._pending:
            exchange_(state, self.exchanges.share.at(step), self.likely(state), step)

    def after_step(self, state: PruningState, step: int) -> None:
        """Keep removed weights at zero."""
        state.zero_removed_()

    def finish(self, state: PruningState) -> MaskSet:
        """The current masks."""
        state.zero_removed_()
        return state.masks

    def state_dict(self) -> dict[str, Any]:
        """Whether an exchange is pending, and the state of the random generator."""
        return {"pending": self._pending, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Any) -> None:
        """Resume from what `state_dict` returned; raises ValueError if it does not fit."""
        self._pending = bool(state["pending"])
        try:
            self.generator.set_state(state["generator"])
        except RuntimeError as e:  # it has another size
            raise ValueError(str(e)) from e


def exchange_(state: PruningState, share: float, likely: Tensor, step: int) -> None:
    """Exchange that fraction of each layer. Grown weights and their momentum start at zero.

    They have been zero since they were removed; dropped weights are set to zero after the step.
    """
    masks = exchanged(state.masks, state.flat_weights(), likely, share)
    if any(not torch.equal(m, state.masks[n]) for n, m in masks.items()):
        state.set_masks(masks, when=f"step {step}")
