"""Savepoints: checkpoints that also hold the complete state from which a run resumes.

A savepoint is one safetensors file. Weights, masks and description are those of any checkpoint of
ours, so it can be inspected, exported and pruned further. The other tensors are named
`fggp.state.<n>`; the rest is JSON in the header's metadata under `fggp.state`, where
{"$tensor": n} stands for a tensor. `fggp.digest` is the SHA-256 of everything.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fggp_deploy.checkpoints.checkpoint import MASK_PREFIX, STATE_PREFIX, Checkpoint
from fggp_deploy.checkpoints.run_folder import RESUME
from fggp_deploy.common.files import write_atomic
from fggp_deploy.errors import CheckpointError, FggpWarning
from fggp_deploy.pruning.masks import tensor_digest

KEPT = 2
_NAME = re.compile(r"step-(\d+)\.safetensors")


@dataclass(frozen=True)
class Savepoint:
    """The state after `step`: the model's state dict, and a tree of tensors and plain types."""

    step: int
    path: Path
    model: Mapping[str, Tensor]
    state: Mapping[str, Any]


def write(folder: Path, step: int, checkpoint: Checkpoint, state: Mapping[str, Any]) -> Path:
    """Write a run's savepoint atomically and keep the newest two; raises MachineError."""
    extra: dict[str, Tensor] = {}
    text = json.dumps(_without_tensors(state, extra))
    tensors = {n: torch.from_numpy(a) for n, a in checkpoint.arrays().items()} | extra
    metadata = {"fggp": checkpoint.described(), "fggp.state": text}
    metadata["fggp.digest"] = _digest(tensors, metadata)
    path = folder / RESUME / f"step-{step:09d}.safetensors"
    # not save_file, which reports a full disk as a SafetensorError
    write_atomic(path, safetensors.torch.save(tensors, metadata))
    for old in _paths(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def latest(folder: Path) -> Savepoint | None:
    """The newest undamaged savepoint in a run's folder, None if there is none.

    Warns about damaged ones. Raises CheckpointError if all of them are damaged.
    """
    paths = _paths(folder)
    for path in paths:
        try:
            return read(path)
        except CheckpointError as e:
            warnings.warn(f"{e}; trying the one before", FggpWarning, stacklevel=2)
    if paths:
        raise CheckpointError(
            f"no savepoint in {folder / RESUME} can be read; delete {folder} and start again"
        )
    return None


def read(path: Path) -> Savepoint:
    """Read and check a savepoint; raises CheckpointError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as f:
            metadata = dict(f.metadata() or {})
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        digest = metadata.pop("fggp.digest")
        if digest != _digest(tensors, metadata):
            raise ValueError("its content does not match its checksum")
        extra = {n: t for n, t in tensors.items() if n.startswith(STATE_PREFIX)}
        state = _with_tensors(json.loads(metadata["fggp.state"]), extra)
        step = int(state["position"]["step"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{path} is damaged ({e or type(e).__name__})") from e
    own = (STATE_PREFIX, MASK_PREFIX)
    model = {n: t for n, t in tensors.items() if not n.startswith(own)}
    return Savepoint(step, path, model, state)


def _paths(folder: Path) -> list[Path]:
    """A run's savepoints, the newest first."""
    named = [(m, p) for p in (folder / RESUME).glob("*") if (m := _NAME.fullmatch(p.name))]
    return [p for _, p in sorted(named, key=lambda mp: int(mp[0][1]), reverse=True)]


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    h = hashlib.sha256(tensor_digest({n: tensors[n] for n in sorted(tensors)}).encode())
    for key in sorted(metadata):
        h.update(f"{key}\0{metadata[key]}\0".encode())
    return h.hexdigest()


def _without_tensors(tree: Any, extra: dict[str, Tensor]) -> Any:
    """The tree as plain JSON types; its tensors are moved to `extra`."""
    if isinstance(tree, Tensor):
        name = f"{STATE_PREFIX}{len(extra)}"
        extra[name] = tree.detach().cpu().contiguous().clone()
        return {"$tensor": name}
    if isinstance(tree, Mapping):
        return {str(k): _without_tensors(v, extra) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_without_tensors(v, extra) for v in tree]
    return tree


def _with_tensors(tree: Any, extra: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, dict):
        if list(tree) == ["$tensor"]:
            return extra[tree["$tensor"]]
        return {k: _with_tensors(v, extra) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_with_tensors(v, extra) for v in tree]
    return tree
