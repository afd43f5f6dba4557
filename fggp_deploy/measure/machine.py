"""The state of the machine during a measurement; its hardware is in the provenance."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from fggp_deploy.common.cores import usable_cores

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Machine:
    """Cores, caches, memory, and the load when verification began.

    `usable_cores` are the logical cores that this process may run on. `cache_bytes` are the caches
    of one core by level (L1d, L2, L3), empty if unknown. `load_average` is the mean number of
    running processes in the last minute, None if unknown.
    """

    physical_cores: int | None
    usable_cores: int
    memory_bytes: int
    cache_bytes: dict[str, int]
    load_average: float | None


@dataclass
class Load:
    """What else ran during a measurement of `seconds`, in cores; None if unknown.

    `own_cores` were busy with this process, `other_cores` with others. `stolen_cores` were given
    to other virtual machines by the host.
    """

    seconds: float = 0.0
    own_cores: float | None = None
    other_cores: float | None = None
    stolen_cores: float | None = None


def machine() -> Machine:
    """Describe this machine now."""
    return Machine(
        physical_cores=psutil.cpu_count(logical=False),
        usable_cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        cache_bytes=_caches(),
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


@contextlib.contextmanager
def watching_load() -> Iterator[Load]:
    """Yield a Load that is filled in when the block ends."""
    load, began = Load(), time.perf_counter()
    system, own = psutil.cpu_times(), psutil.Process().cpu_times()
    try:
        yield load
    finally:
        load.seconds = round(time.perf_counter() - began, 3)
        if load.seconds > 0:
            now, own_now = psutil.cpu_times(), psutil.Process().cpu_times()
            idle = sum(getattr(now, k, 0) - getattr(system, k, 0) for k in ("idle", "iowait"))
            stolen = getattr(now, "steal", 0) - getattr(system, "steal", 0)
            spent = sum(own_now[:2]) - sum(own[:2])
            total = (psutil.cpu_count() or 1) * load.seconds
            load.own_cores = round(spent / load.seconds, 2)
            load.stolen_cores = round(max(0.0, stolen / load.seconds), 2)
            busy = total - idle - stolen - spent
            load.other_cores = round(max(0.0, busy / load.seconds), 2)


def default_threads() -> int:
    """One thread for each physical core that this process may use."""
    return min(psutil.cpu_count(logical=False) or usable_cores(), usable_cores())


def _caches() -> dict[str, int]:
    """Data and unified caches of the first core, as Linux reports them."""
    found: dict[str, int] = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size = (
                (folder / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        scale = {"K": 1 << 10, "M": 1 << 20}.get(size[-1:], 0)
        if kind != "Instruction" and scale and size[:-1].isdigit():
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = scale * int(size[:-1])
    return found
