"""Pruning methods: one file per method, and one line in registry.BUILT_IN."""

from __future__ import annotations

from fggp_deploy.pruning.methods.method import Batch, Measured, Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.registry import (
    BUILT_IN,
    info,
    make,
    names,
    read_options,
    readers,
    with_targets,
    without_training,
)
from fggp_deploy.pruning.methods.state import PruningState

__all__ = [
    "BUILT_IN",
    "Batch",
    "Measured",
    "Method",
    "MethodInfo",
    "Options",
    "PruningState",
    "Task",
    "info",
    "make",
    "names",
    "read_options",
    "readers",
    "setting",
    "with_targets",
    "without_training",
]
