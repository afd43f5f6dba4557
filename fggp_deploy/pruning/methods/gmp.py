"""GMP: gradual magnitude pruning."""

from __future__ import annotations

from fggp_deploy.pruning.criteria import Magnitude
from fggp_deploy.pruning.methods.gradual import GradualOptions
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task


def _make(options: GradualOptions, task: Task) -> Method:
    return options.gradual(Magnitude(), task)


METHOD = MethodInfo(
    title="gradual magnitude pruning",
    source="Zhu & Gupta 2017, arXiv 1710.01878",
    make=_make,
    options=GradualOptions,
    reads=("updates", "pattern"),
    several_targets=True,
)
