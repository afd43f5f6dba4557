"""Plans and compiled models of earlier sessions, on disk: `<key>.json` and `<key>.onnx`.

The key is made of the model's hash and everything about this machine that a plan depends on. Files
are checked when they are read: one that is damaged, or is not the one that the plan names, counts
as absent. So does one that another user owns or may change, because compiled models are trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime as ort

from fggp_deploy import kernels
from fggp_deploy.checkpoints.provenance import machine
from fggp_deploy.common.cores import usable_cores
from fggp_deploy.common.files import sha256_file, write_atomic
from fggp_deploy.errors import MachineError
from fggp_deploy.runtime.plan import CompiledModel, Plan

VERSION = 3
MAX_PLAN_BYTES = 1 << 16
BUSY_SECONDS = 3600.0  # how long a plan is used that was made on a busy machine
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
KEPT = 64  # entries; the oldest beyond that are removed


def sha256_of(model: Path | bytes) -> str:
    """Hex SHA-256 of a file or of bytes."""
    return hashlib.sha256(model).hexdigest() if isinstance(model, bytes) else sha256_file(model)


def path_of(model_sha256: str, *, threads: int, batch: int, shape: tuple[int, ...] = ()) -> Path:
    """The file of the plan for this model on this machine."""
    library = kernels.library_path()
    parts = [
        str(VERSION),
        model_sha256,
        sha256_file(library) if library else "",
        machine()["cpu"],
        os.environ.get("FGGP_ISA", "") or ",".join(kernels.isas()),
        str(usable_cores()),
        str(ort.__version__),
        str(threads),
        str(batch),
        *map(str, shape),
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "fggp-deploy" / "plans" / f"{key}.json"


def load(path: Path) -> CompiledModel | None:
    """The cached plan, or None if it is missing, damaged, or old and made on a busy machine."""
    try:
        if not all(map(_is_ours, _folders(path))):
            return None
        stored = json.loads(_read(path, at_most=MAX_PLAN_BYTES))
        plan = _plan(stored["plan"])
        if plan.busy and time.time() - path.stat().st_mtime > BUSY_SECONDS:
            return None
        if not plan.sparse:
            return CompiledModel(plan)
        model = _read(path.with_suffix(".onnx"))
        return CompiledModel(plan, model) if sha256_of(model) == stored["model_sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def save(path: Path, compiled: CompiledModel) -> None:
    """Store a compiled model; a cache that cannot be written is not an error."""
    stored: dict[str, Any] = {"plan": asdict(compiled.plan), "model_sha256": None}
    with contextlib.suppress(MachineError, OSError):
        for folder in _folders(path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(folder.stat().st_mode & ~OTHERS_WRITE)
            if not _is_ours(folder):
                return
        path.parent.chmod(0o700)
        if compiled.model is not None:
            stored["model_sha256"] = sha256_of(compiled.model)
            write_atomic(path.with_suffix(".onnx"), compiled.model, private=True)
        write_atomic(path, json.dumps(stored), private=True)
        entries = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for old in entries[:-KEPT]:
            old.with_suffix(".onnx").unlink(missing_ok=True)
            old.unlink(missing_ok=True)


def _folders(path: Path) -> tuple[Path, Path]:
    """Our folders above a plan: fggp-deploy and plans."""
    return path.parent.parent, path.parent


def _is_ours(path: Path) -> bool:
    """Whether no other user owns a folder or may write to it."""
    return _private(path.stat(), stat.S_IFDIR)


def _read(path: Path, *, at_most: int | None = None) -> bytes:
    """The content of a file of ours; raises OSError for any other, or one that is too large."""
    with open(path, "rb", opener=_no_links) as f:
        found = os.fstat(f.fileno())
        if not _private(found, stat.S_IFREG) or (at_most is not None and found.st_size > at_most):
            raise PermissionError(f"{path} is not a plan of this user")
        return f.read()


def _no_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _private(found: os.stat_result, kind: int) -> bool:
    """Whether a file or folder is of this kind and user, and no other user may write to it."""
    if stat.S_IFMT(found.st_mode) != kind:
        return False
    if not hasattr(os, "geteuid"):  # Windows has no such owners and modes
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & OTHERS_WRITE


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
