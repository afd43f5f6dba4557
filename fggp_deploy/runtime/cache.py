"""Plans and compiled models of earlier sessions, on disk: `<key>.json` and `<key>.onnx`.

The key holds the model's hash and everything about this machine that a plan depends on. What is
read back is checked: a file that is damaged, or is not the one the plan names, counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime as ort

from fggp_deploy import kernels
from fggp_deploy.artifacts.provenance import machine
from fggp_deploy.errors import MachineError
from fggp_deploy.files import sha256_file, write_atomic
from fggp_deploy.runtime.plan import Compiled, Plan

VERSION = 2
MAX_PLAN_BYTES = 1 << 16
BUSY_SECONDS = 3600.0  # for so long a plan counts that was made on a busy machine
KEPT = 64  # entries; the oldest beyond that are removed


def sha256_of(model: Path | bytes) -> str:
    """Hex SHA-256 of a file or of bytes."""
    return hashlib.sha256(model).hexdigest() if isinstance(model, bytes) else sha256_file(model)


def path_of(model_sha256: str, *, threads: int, batch: int, shape: tuple[int, ...] = ()) -> Path:
    """Where the plan for this model on this machine lies."""
    library = kernels.library_path()
    parts = [
        str(VERSION),
        model_sha256,
        sha256_file(library) if library else "",
        machine()["cpu"],
        os.environ.get("FGGP_ISA", "") or ",".join(kernels.isas()),
        str(os.cpu_count()),
        str(ort.__version__),
        str(threads),
        str(batch),
        *map(str, shape),
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "fggp-deploy" / "plans" / f"{key}.json"


def load(path: Path) -> Compiled | None:
    """What was kept there, or None if there is nothing whole or it was measured badly long ago."""
    try:
        found = path.stat()
        if found.st_size > MAX_PLAN_BYTES:
            return None
        stored = json.loads(path.read_text(encoding="utf-8"))
        plan = _plan(stored["plan"])
        if plan.busy and time.time() - found.st_mtime > BUSY_SECONDS:
            return None
        if not plan.sparse:
            return Compiled(plan)
        model = path.with_suffix(".onnx").read_bytes()
        return Compiled(plan, model) if sha256_of(model) == stored["model_sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def save(path: Path, compiled: Compiled) -> None:
    """Keep what was compiled; a cache that cannot be written is no error."""
    stored: dict[str, Any] = {"plan": asdict(compiled.plan), "model_sha256": None}
    with contextlib.suppress(MachineError, OSError):
        if compiled.model is not None:
            stored["model_sha256"] = sha256_of(compiled.model)
            write_atomic(path.with_suffix(".onnx"), compiled.model)
        write_atomic(path, json.dumps(stored))
        entries = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for old in entries[:-KEPT]:
            old.with_suffix(".onnx").unlink(missing_ok=True)
            old.unlink(missing_ok=True)


def _plan(fields: Any) -> Plan:
    plan = Plan(**fields)
    ratio, seconds = plan.ratio, plan.tuning_seconds
    if not (isinstance(plan.sparse, bool) and isinstance(plan.reason, str)):
        raise TypeError("sparse must be a boolean and reason a string")
    if not isinstance(plan.busy, bool):
        raise TypeError("busy must be a boolean")
    if not (isinstance(seconds, float) and math.isfinite(seconds)):
        raise TypeError("tuning_seconds must be a finite number")
    if ratio is not None and not (isinstance(ratio, float) and math.isfinite(ratio)):
        raise TypeError("ratio must be a finite number or null")
    return plan
