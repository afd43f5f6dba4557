"""Checkpoints made elsewhere: state dicts in .pt, .pth, .th and .safetensors files."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fggp_deploy.artifacts.checkpoint import Checkpoint, check_finite
from fggp_deploy.errors import CheckpointError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_HEADS = ("fc.", "linear.", "classifier.", "head.")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that the file may hold.

    Wrappers (`state_dict`, …) and prefixes (`module.`, …) are taken off. Raises CheckpointError.
    """
    if path.suffix == ".safetensors":
        arrays = Checkpoint.open(path).tensors
        return {n: torch.from_numpy(a.copy()) for n, a in arrays.items()}
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is no file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if "GLOBAL" in str(e):
            raise CheckpointError(
                f"{path} holds Python objects that would run code when loaded; it is refused. "
                f"Save model.state_dict() alone, best as .safetensors"
            ) from e
        raise CheckpointError(f"{path} is no PyTorch checkpoint or is damaged") from e
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise CheckpointError(
            f"{path} is no PyTorch checkpoint or is cut off; copy it again"
        ) from e
    state = _unwrap(path, content)
    check_finite(path, {n: t.float().numpy() for n, t in state.items() if t.is_floating_point()})
    return state


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict: expected names mapped to tensors")
    state = {str(n): t for n, t in content.items() if isinstance(t, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no tensors; save model.state_dict()")
    for prefix in _PREFIXES:
        if all(n.startswith(prefix) for n in state):
            state = {n.removeprefix(prefix): t for n, t in state.items()}
    return state


def load_into(model: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Load `state` into `model`, exactly; `what` names both in errors.

    A head called `linear` fits one called `fc`. Raises CheckpointError with the first keys that
    differ, the shapes, and the likely cure.
    """
    own = model.state_dict()
    state = _rename_head(dict(state), own)
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    extra = [n for n in state if n not in own]
    if missing or extra:
        raise CheckpointError(
            f"{what}: the names differ; missing {_few(missing)}; unexpected {_few(extra)}. "
            f"Is it another --model?"
        )
    for name, t in state.items():
        if t.shape != own[name].shape:
            last = name.startswith(_HEADS)
            cure = "another number of classes (--data)" if last else "another --model or --data"
            raise CheckpointError(
                f"{what}: {name} is {tuple(t.shape)} in the checkpoint but "
                f"{tuple(own[name].shape)} in the network; it looks like {cure}"
            )
    model.load_state_dict(dict(state), strict=False)


def _rename_head(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    theirs = {h for h in _HEADS for n in state if n.startswith(h)}
    ours = {h for h in _HEADS for n in own if n.startswith(h)}
    if len(theirs) == len(ours) == 1 and theirs != ours:
        old, new = theirs.pop(), ours.pop()
        return {new + n.removeprefix(old) if n.startswith(old) else n: t for n, t in state.items()}
    return state


def _few(names: list[str], n: int = 3) -> str:
    if not names:
        return "none"
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
