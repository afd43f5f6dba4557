"""The machine that a number was measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import psutil
import scipy

import fggp_deploy

X86 = (
    "avx avx2 fma f16c avx_vnni avx512f avx512bw avx512vl avx512_vnni avx512_bf16 amx_tile amx_int8"
)
ARM = "asimd asimdhp asimddp i8mm bf16 sve sve2 sme"
FEATURES = frozenset(f"{X86} {ARM}".split())  # of interest to inference kernels


@dataclass(frozen=True)
class Machine:
    """Hardware, load and versions; `usable_cores` is what this process may run on.

    `load_average` is the mean number of running processes in the last minute when verification
    began, or None where the system does not tell.
    """

    cpu: str
    physical_cores: int | None
    usable_cores: int
    features: tuple[str, ...]
    memory_bytes: int
    load_average: float | None
    os: str
    versions: dict[str, str]


def fingerprint() -> Machine:
    """Describe this machine now."""
    cpu, flags = cpu_info()
    return Machine(
        cpu=cpu,
        physical_cores=psutil.cpu_count(logical=False),
        usable_cores=usable_cores(),
        features=tuple(sorted(FEATURES & flags)),
        memory_bytes=psutil.virtual_memory().total,
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions={
            "fggp-deploy": fggp_deploy.__version__,
            "onnxruntime": ort.__version__,
            "onnx": onnx.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
    )


def usable_cores() -> int:
    """Number of logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """One thread for each physical core that this process may use."""
    return min(psutil.cpu_count(logical=False) or usable_cores(), usable_cores())


def cpu_info(path: Path = Path("/proc/cpuinfo")) -> tuple[str, frozenset[str]]:
    """The CPU's name and its feature flags; no flags where there is no such file."""
    fallback = platform.processor() or platform.machine()
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return fallback, frozenset()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name") or fallback, frozenset(flags.split())
