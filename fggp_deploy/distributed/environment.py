"""The environment variables that torchrun sets for each process; needs no torch."""

from __future__ import annotations

import os

_SET_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # always all four


def rank() -> int:
    """The number of this process in the whole run; 0 for a single process."""
    return _number("RANK", 0)


def world() -> int:
    """The number of processes of the run."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process among those on its machine."""
    return _number("LOCAL_RANK", 0)


def local_world() -> int:
    """The number of processes of the run on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    by_torchrun = all(key in os.environ for key in _SET_BY_TORCHRUN)
    return int(text) if by_torchrun and text.isdecimal() else default
