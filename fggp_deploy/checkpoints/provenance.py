"""Where an artifact comes from: command, configuration, versions, hardware, time."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any

_PACKAGES = ("fggp-deploy", "torch", "torchvision", "onnx", "onnxruntime", "numpy", "scipy")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a result; missing ones are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def machine() -> dict[str, Any]:
    """CPU name, cores, the instruction sets that matter here, and the operating system."""
    name, flags = _cpuinfo()
    x86 = ["avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"]
    arm = ["asimd", "asimddp", "i8mm"]
    return {
        "cpu": name or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "features": [f for f in x86 + arm if f in flags],
        "os": f"{platform.system()} {platform.release()}",
    }


def _cpuinfo() -> tuple[str, set[str]]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            pairs = [line.partition(":") for line in f.read(65536).splitlines()]
    except OSError:
        return "", set()
    entries = {key.strip(): value.strip() for key, _, value in reversed(pairs)}
    flags = entries.get("flags") or entries.get("Features") or ""
    return entries.get("model name", ""), set(flags.split())


@dataclass(frozen=True)
class Provenance:
    """The record that every artifact carries. `seconds` is the wall time of the stage."""

    command: str
    config: dict[str, Any]
    seconds: float
    started: str
    versions: dict[str, str] = field(default_factory=package_versions)
    hardware: dict[str, Any] = field(default_factory=machine)

    @classmethod
    def of(cls, config: Mapping[str, Any], started: datetime) -> Provenance:
        """The record of a stage of this process that began at `started` (UTC) and ends now."""
        command = " ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]])
        command = command.encode(errors="backslashreplace").decode()  # a name may not be UTF-8
        seconds = (datetime.now(UTC) - started).total_seconds()
        return cls(command, dict(config), round(seconds, 2), started.isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)
