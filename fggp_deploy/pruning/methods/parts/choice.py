"""A criterion's choice among some of the layers, including layers without gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fggp_deploy.pruning.criteria import Criterion, Magnitude
from fggp_deploy.pruning.methods.parts.blocks import InBlocks
from fggp_deploy.pruning.methods.parts.floors import located, positions


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Chooses weights of some layers at one update.

    weights, gradients: float [P], alive: bool [P], of all layers; `layers`: the position of each
    layer in them. `on_units`: adapts a criterion to the weights or the blocks of some layers.

    A layer whose gradient is zero everywhere was not used in this step (an auxiliary head, an
    expert without input), so its gradient says nothing about its weights. Such layers are pruned by
    magnitude: they lose as many weights as magnitude pruning over all these layers would take from
    them. The criterion chooses among the other layers.
    """

    criterion: Criterion
    weights: Tensor
    gradients: Tensor
    alive: Tensor
    layers: Mapping[str, slice]
    on_units: Callable[[Criterion, Sequence[str]], Criterion | InBlocks]

    def __call__(self, names: Sequence[str], n_drop: int) -> Tensor:
        """Flat indices of the weights to drop: int64 [n_drop], fewer for whole blocks."""
        unused = [n for n in names if n in self.unused]
        if not unused:
            return self._by(self.criterion, names, n_drop)
        used = [n for n in names if n not in self.unused]
        by_magnitude = self._by(Magnitude(), names, n_drop)
        if not used:
            return by_magnitude
        gone = torch.zeros_like(self.alive)
        gone[by_magnitude] = True
        n_unused = sum(int(gone[self.layers[n]].count_nonzero()) for n in unused)
        first = self._by(Magnitude(), unused, n_unused)
        return torch.cat([first, self._by(self.criterion, used, n_drop - len(first))])

    @cached_property
    def unused(self) -> frozenset[str]:
        """The layers without any gradient, if that matters: magnitude does not read gradients."""
        if isinstance(self.criterion, Magnitude):
            return frozenset()
        return frozenset(n for n, part in self.layers.items() if not self.gradients[part].any())

    def _by(self, criterion: Criterion, names: Sequence[str], n_drop: int) -> Tensor:
        where = positions([self.layers[n] for n in names], self.alive.device)
        w, g, alive = self.weights[where], self.gradients[where], self.alive[where]
        return located(self.on_units(criterion, names).drop(w, g, alive, n_drop), where)
