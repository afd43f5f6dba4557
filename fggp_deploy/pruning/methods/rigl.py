"""RigL and SET: sparse training at constant sparsity, with masks that change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fggp_deploy.pruning.allocation import ALLOCATIONS
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import setting
from fggp_deploy.pruning.methods.parts.regrowth import Dynamic, Exchanges, RegrowthOptions
from fggp_deploy.pruning.methods.state import PruningState


@dataclass(frozen=True, kw_only=True)
class DynamicOptions(RegrowthOptions):
    """Options of RigL and SET."""

    allocation: str = setting(
        "erk", "How the random mask is allocated to layers.", choices=tuple(ALLOCATIONS)
    )


def by_gradient(state: PruningState) -> Tensor:
    """RigL's growth score: |g| of the dense gradient, [P]."""
    return state.flat_grads().abs_()


def by_chance(generator: torch.Generator, state: PruningState) -> Tensor:
    """SET's growth score: random numbers, [P].

    They come from a CPU generator and so are the same on every device and rank. All removed weights
    of a layer are equally likely to grow.

    Source: Mocanu et al. 2018 (arXiv 1707.04780), algorithm 1. There, after every epoch, a fraction
    ζ of the smallest positive and of the largest negative weights is dropped, and new weights get
    random values. Here the smallest |w| are dropped at RigL's steps, and new weights are zero.
    """
    n = state.masks.n_total
    device = next(iter(state.masks.values())).device
    return torch.rand(n, generator=generator).to(device)


def _rigl(o: DynamicOptions, task: Task) -> Method:
    return _dynamic(o, task, random=False)


def _set(o: DynamicOptions, task: Task) -> Method:
    return _dynamic(o, task, random=True)


def _dynamic(o: DynamicOptions, task: Task, *, random: bool) -> Dynamic:
    generator = torch.Generator().manual_seed(task.seed)
    return Dynamic(
        task.target,
        Exchanges(o.share(task.n_steps), task.updates, o.until),
        (lambda state: by_chance(generator, state)) if random else by_gradient,
        allocation=o.allocation,
        generator=generator,
    )


_BECAUSE = (
    "it keeps the count of a sparse mask from the first step on, and a random mask would discard "
    "what a dense network has learned"
)
RIGL = MethodInfo(
    title="sparse training; drops by |w|, grows by |g|",
    source="Evci et al. 2020, arXiv 1911.11134",
    make=_rigl,
    options=DynamicOptions,
    reads=("updates",),
    starts=("random", "sparse"),
    because=_BECAUSE,
)
SET = MethodInfo(
    title="sparse training; drops by |w|, grows at random",
    source="Mocanu et al. 2018, arXiv 1707.04780",
    make=_set,
    options=DynamicOptions,
    reads=("updates",),
    keeps="the random generator",
    starts=("random", "sparse"),
    because=_BECAUSE,
)
