"""Pruning once, before the first step, with masks that then stay the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.criteria import indices, smallest
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.parts.floors import drop_above_floors, located, positions
from fggp_deploy.pruning.methods.state import PruningState

_AT_START = "pruning at the start"


class AtStart:
    """Chooses all masks at the start, with exactly round(target·N*) of N* weights removed.

    Chooses nothing if the network already has that sparsity. Raises LayerCollapse if a layer would
    be empty (`drop_smallest` respects the layer floors), and ConfigError if the network is sparser
    than the target or `choose` misses it.
    """

    def __init__(self, target: float) -> None:
        if not 0 <= target < 1:
            raise ConfigError(f"target must be in [0, 1), got {target}")
        self.target = target

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """The masks with n_drop fewer weights than `state.masks`; every subclass defines this."""
        raise NotImplementedError

    def drop_smallest(
        self, state: PruningState, score: Tensor, n_drop: int, *, masks: MaskSet | None = None
    ) -> MaskSet:
        """`masks` (None: the state's) without the n_drop smallest scores, [P]; floors hold."""
        return without_smallest_above_floors(
            state, masks or state.masks, score, n_drop, target=self.target, when=_AT_START
        )[0]

    def start(self, state: PruningState) -> None:
        """Choose the masks, and set removed weights to zero."""
        state.zero_removed_()
        n_drop = self.n_wanted(state) - state.masks.n_removed
        if n_drop < 0:
            raise ConfigError(
                f"the network is already {state.masks.sparsity:.2%} sparse, above the target "
                f"{self.target:g}"
            )
        if n_drop:
            masks = self.choose(state, n_drop)
            if masks.n_removed != self.n_wanted(state):
                raise ConfigError(
                    f"{type(self).__name__} removes {masks.n_removed} of {masks.n_total} weights, "
                    f"but the target {self.target:g} means {self.n_wanted(state)}"
                )
            state.set_masks(masks, when=_AT_START)
        state.zero_removed_()

    def n_wanted(self, state: PruningState) -> int:
        """Number of weights that are removed in the end."""
        return round(self.target * state.masks.n_total)

    def after_backward(self, state: PruningState, step: int) -> None:
        """Does nothing: the masks stay the same."""

    def after_step(self, state: PruningState, step: int) -> None:
        """Keep removed weights at zero."""
        state.zero_removed_()

    def finish(self, state: PruningState) -> MaskSet:
        """The masks that were chosen."""
        state.zero_removed_()
        return state.masks

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the masks are the whole state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Does nothing: there is no state."""


def without_smallest(masks: MaskSet, score: Tensor, n_drop: int) -> MaskSet:
    """Masks without the n_drop alive weights that have the smallest score, [P], over all layers."""
    alive = masks.flatten()
    alive[_smallest_alive(score, alive, n_drop)] = False
    return MaskSet.unflatten(alive, masks)


def without_smallest_above_floors(
    state: PruningState, masks: MaskSet, score: Tensor, n_drop: int, *, target: float, when: str
) -> tuple[MaskSet, list[str]]:
    """The same, but no layer falls below its floor for `target`; also the layers at their floors.

    See floors.drop_above_floors.
    """
    alive, layers = masks.flatten(), state.layers
    least = state.floors(target, masks=masks)

    def choose(names: Sequence[str], n: int) -> Tensor:
        where = positions([layers[name] for name in names], alive.device)
        return located(_smallest_alive(score[where], alive[where], n), where)

    gone, held = drop_above_floors(choose, alive, layers, least, n_drop)
    state.hold(held, least, when=when)
    return MaskSet.unflatten(alive & ~gone, masks), held


def _smallest_alive(score: Tensor, alive: Tensor, n: int) -> Tensor:
    idx = indices(alive)
    return idx[smallest(score[idx], n)]


def flat(masks: MaskSet, scores: Mapping[str, Tensor]) -> Tensor:
    """Scores by parameter as one tensor in the masks' order, [P]."""
    return torch.cat([scores[n].detach().reshape(-1) for n in masks])
