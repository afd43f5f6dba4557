"""Pruning once, before the first step; the masks then stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fggp_deploy.criteria import indices, smallest
from fggp_deploy.errors import ConfigError
from fggp_deploy.masks import MaskSet
from fggp_deploy.methods.state import PruningState


class AtStart:
    """Chooses all masks at the start, exactly round(target·N*) of N* weights removed.

    Nothing to choose where the network is as sparse already. Raises LayerCollapse where a layer
    would be empty, and ConfigError where the network is sparser than the target, or `choose` misses
    it.
    """

    def __init__(self, target: float) -> None:
        if not 0 <= target < 1:
            raise ConfigError(f"target must be in [0, 1), got {target}")
        self.target = target

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """The masks with n_drop weights less than `state.masks`; each method has its own."""
        raise NotImplementedError

    def start(self, state: PruningState) -> None:
        """Choose, and set what goes to zero."""
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
                    f"{type(self).__name__} removes {masks.n_removed} of {masks.n_total} weights "
                    f"where the target {self.target:g} is {self.n_wanted(state)}"
                )
            state.set_masks(masks, when="pruning at the start")
        state.zero_removed_()

    def n_wanted(self, state: PruningState) -> int:
        """Number of weights removed in the end."""
        return round(self.target * state.masks.n_total)

    def after_backward(self, state: PruningState, step: int) -> None:
        """Nothing: the masks stay."""

    def after_step(self, state: PruningState, step: int) -> None:
        """Keep the removed at zero."""
        state.zero_removed_()

    def finish(self, state: PruningState) -> MaskSet:
        """The masks, as they were chosen."""
        state.zero_removed_()
        return state.masks

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the masks say all."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from."""


def without_smallest(masks: MaskSet, score: Tensor, n_drop: int) -> MaskSet:
    """Masks less the n_drop alive weights with the smallest score, [P], over all layers."""
    alive = masks.flatten()
    idx = indices(alive)
    alive[idx[smallest(score[idx], n_drop)]] = False
    return MaskSet.unflatten(alive, masks)


def flat(masks: MaskSet, scores: Mapping[str, Tensor]) -> Tensor:
    """Scores by parameter in the masks' order, [P]."""
    return torch.cat([scores[n].detach().reshape(-1) for n in masks])
