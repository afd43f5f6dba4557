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
    """Random masks: each layer keeps a number of weights by `allocation`, chosen at random.

    `allocation` "erk": density_l = min(1, ε·Σshape_l/Πshape_l), over the layer's shape [outputs,
    inputs/groups, kernel…], with the single ε that meets the target exactly; "uniform": 1 − target
    everywhere. `generator`: a CPU generator, so that a seed gives the same masks on every device
    and rank. Raises ConfigError if the network is already sparse.

    Source: the densities: Evci et al. 2020, RigL (arXiv 1911.11134), section 3; random masks that
    stay: Liu et al. 2022 (arXiv 2202.02643).
    """

    def __init__(self, target: float, *, allocation: str, generator: torch.Generator) -> None:
        super().__init__(target)
        self.allocation = allocation
        self.generator = generator

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Draw the masks; raises ConfigError if the network is already sparse."""
        if state.masks.n_removed:
            raise ConfigError(
                "random masks need a dense network, but this one is already sparse; give a dense "
                "checkpoint"
            )
        keep = state.kept_by(ALLOCATIONS[self.allocation], self.target)
        return random_masks(state.params, keep, generator=self.generator)


@dataclass(frozen=True, kw_only=True)
class RandomOptions(Options):
    """The options of random masks."""

    allocation: str = setting(
        "erk", "How many weights each layer keeps.", choices=tuple(ALLOCATIONS)
    )


def _make(o: RandomOptions, task: Task) -> RandomMasks:
    generator = torch.Generator().manual_seed(task.seed)
    return RandomMasks(task.target, allocation=o.allocation, generator=generator)


METHOD = MethodInfo(
    title="random masks at the start",
    source="densities: Evci et al. 2020, arXiv 1911.11134",
    make=_make,
    options=RandomOptions,
    starts=("random",),
    because="random masks would discard what a trained network has learned",
)
