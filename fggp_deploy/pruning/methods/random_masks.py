"""Random masks that stay: each layer keeps a share of its weights, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import ALLOCATIONS
from fggp_deploy.pruning.masks import MaskSet, random_masks
from fggp_deploy.pruning.methods.method import MethodInfo, Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.at_start import AtStart
from fggp_deploy.pruning.methods.state import PruningState


class RandomMasks(AtStart):
    """Random masks: each layer keeps its share by `allocation`, which weights the generator draws.

    `allocation` "erk": density_l = min(1, ε·Σshape_l/Πshape_l) with the one ε that meets the target
    exactly, over the layer's shape [outputs, inputs/groups, kernel…]; "uniform": 1 − target
    everywhere. `generator`: a CPU generator, so that a seed gives the same masks on every device
    and rank. Raises ConfigError where the network is sparse already.

    Source: the densities: Evci et al. 2020, RigL (arXiv 1911.11134), section 3; random masks that
    stay: Liu et al. 2022 (arXiv 2202.02643).
    """

    def __init__(self, target: float, *, allocation: str, generator: torch.Generator) -> None:
        super().__init__(target)
        self.allocation = allocation
        self.generator = generator

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Draw them; raises ConfigError where the network is sparse already."""
        if state.masks.n_removed:
            raise ConfigError("random masks need a dense network; this one is sparse already")
        keep = state.kept_by(ALLOCATIONS[self.allocation], self.target)
        return random_masks(state.params, keep, generator=self.generator)


@dataclass(frozen=True, kw_only=True)
class RandomOptions(Options):
    """Options of random masks."""

    allocation: str = setting("erk", "Who gets how much of the mask.", choices=tuple(ALLOCATIONS))


def _make(o: RandomOptions, task: Task) -> RandomMasks:
    generator = torch.Generator().manual_seed(task.seed)
    return RandomMasks(task.target, allocation=o.allocation, generator=generator)


METHOD = MethodInfo(
    title="random masks at the start",
    source="densities: Evci et al. 2020, arXiv 1911.11134",
    make=_make,
    options=RandomOptions,
    starts=("random",),
    because="random masks would throw away what a trained network has learned",
)
