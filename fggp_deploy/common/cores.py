"""The cores that this process may use.

`csrc/plan/threads.cpp` reads the same limits for models that are opened without this package.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def usable_cores() -> int:
    """Logical cores: those of the process's affinity, at most the quota of its control groups."""
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(affinity, _rounded_up(cpu_quota())))


def cpu_quota(root: Path = _ROOT) -> float:
    """Cores that the control groups of this process grant on Linux; infinity without a limit.

    `root` holds the folders proc and sys. Versions 1 and 2 of control groups are read; the limit of
    a group holds for those below it.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return math.inf
    quota = math.inf
    for line in lines:  # 0::/path for version 2, number:controllers:/path for version 1
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        mount = root / "sys/fs/cgroup"
        if controllers:
            if "cpu" not in controllers.split(","):
                continue
            mount /= "cpu"
        # In a container, the path may be that of the host. Then only the root of the mount exists.
        parts = [p for p in PurePosixPath(path).parts if p not in ("/", "..")]
        for n in range(len(parts) + 1):
            quota = min(quota, _quota(mount.joinpath(*parts[:n])))
    return quota


def _quota(group: Path) -> float:
    """The cores that one control group grants; infinity if it sets no limit."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (group / "cpu.cfs_period_us").read_text(encoding="utf-8")
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # also "max", and no such group
        return math.inf
    return cores if cores > 0 else math.inf  # -1: no limit


def _rounded_up(quota: float) -> int:
    return math.ceil(quota) if math.isfinite(quota) else 1 << 30
