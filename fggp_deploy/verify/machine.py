"""The state of the machine that a number was measured on; its make is in the provenance."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Machine:
    """Cores, memory, and the load when verification began.

    `usable_cores` is the logical cores that this process may run on. `load_average` is the mean
    number of running processes in the last minute, None where the system does not tell.
    """

    physical_cores: int | None
    usable_cores: int
    memory_bytes: int
    load_average: float | None


def machine() -> Machine:
    """Describe this machine now."""
    return Machine(
        physical_cores=psutil.cpu_count(logical=False),
        usable_cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def usable_cores() -> int:
    """Number of logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """One thread for each physical core that this process may use."""
    return min(psutil.cpu_count(logical=False) or usable_cores(), usable_cores())
