"""FGGP: fixed-rate gradient-first gradual pruning, as a method that `--method` knows.

`pruning/criteria.py:FGGP` chooses the weights; `Gradual` applies it on a schedule.
"""

from __future__ import annotations

from fggp_deploy.pruning.criteria import FGGP
from fggp_deploy.pruning.methods.gradual import GradualOptions
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task


def _make(options: GradualOptions, task: Task) -> Method:
    return options.gradual(FGGP(task.rate), task)


METHOD = MethodInfo(
    title="fixed-rate gradient-first gradual pruning",
    source="Zhu, Bezek & Goksel 2024, arXiv 2411.05500",
    make=_make,
    options=GradualOptions,
    reads=("updates", "rate", "pattern"),
    several_targets=True,
)
