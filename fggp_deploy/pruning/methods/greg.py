"""GReg-1 and GReg-2: a growing L2 penalty on weights, which are then removed."""

from __future__ import annotations

from dataclasses import dataclass

from fggp_deploy.pruning.allocation import ALLOCATIONS, GLOBAL
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.growing_regularization import (
    FILTER,
    WEIGHT,
    GrowingReg,
    Growth,
)
from fggp_deploy.pruning.methods.parts.reinit import NONE, ORTHP, REWIND, Reinit


@dataclass(frozen=True, kw_only=True)
class GReg1Options(Options):
    """GReg-1's options; iterations are scaled unless `literal`."""

    granularity: str = setting(
        WEIGHT, "Remove single weights or whole filters.", choices=(WEIGHT, FILTER)
    )
    allocation: str = setting(
        GLOBAL, "How many weights each layer loses: all weights compete, or by an allocation.",
        choices=(GLOBAL, *ALLOCATIONS),
    )  # fmt: skip
    every: int = setting(10, "Iterations between two increases of the penalty.", least=1)
    growth: float = setting(1e-4, "Increase of the penalty of the chosen weights.", above=0)
    ceiling: float = setting(1.0, "Final value of their penalty.", above=0)
    hold: int = setting(10_000, "Iterations at that penalty before they are removed.", least=0)
    literal: bool = setting(
        False, "One iteration per step; otherwise they are scaled to the first 80% of the run."
    )
    reinit: str = setting(
        NONE, "Kept weights after the removal: unchanged, made orthogonal, or rewound.",
        choices=(NONE, ORTHP, REWIND),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GReg2Options(GReg1Options):
    """GReg-2's options."""

    pick_growth: float = setting(
        1e-5, "Increase of the penalty of all weights before the choice.", above=0
    )
    pick_ceiling: float = setting(
        1e-2, "Value of that penalty at which weights are chosen.", above=0
    )
    encourage: float = setting(
        1e-4, "From then on, the kept weights have minus this as their penalty.", least=0
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
    title="a growing penalty on the smallest weights or filters, which are then removed",
    source=_SOURCE,
    make=_greg_1,
    options=GReg1Options,
    keeps="the chosen weights; with reinit=rewind also the initial weights",
    starts=("dense", "sparse"),
    because=_BECAUSE,
)
GREG_2 = MethodInfo(
    title="GReg-1 after a growing penalty on all weights, which separates them by curvature",
    source=_SOURCE,
    make=_greg_2,
    options=GReg2Options,
    keeps="the chosen weights; with reinit=rewind also the initial weights",
    starts=("dense", "sparse"),
    because=_BECAUSE,
)
