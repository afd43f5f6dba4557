"""What torchrun tells each process that it starts, from the environment; needs no torch."""

from __future__ import annotations

import os

_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # all of them, or it was somebody else


def rank() -> int:
    """The number of this process in the whole run; 0 for one alone."""
    return _number("RANK", 0)


def world() -> int:
    """How many processes the run has."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process among those on its machine."""
    return _number("LOCAL_RANK", 0)


def local_world() -> int:
    """How many processes of the run this machine has."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and all(key in os.environ for key in _TOLD) else default
