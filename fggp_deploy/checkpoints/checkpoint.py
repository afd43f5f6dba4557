"""Our checkpoint: one safetensors file of weights, masks and what is needed to use them.

Torch-free. Layout: the state dict under its own names; each mask bit-packed (little-endian, row
major) as uint8 under `fggp.mask.<parameter>`; one JSON object in the header's metadata, key `fggp`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from fggp_deploy.checkpoints.file_type import head_of, is_safetensors
from fggp_deploy.common.files import atomic_path, check_readable
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import CheckpointError, ConfigError

Array = npt.NDArray[Any]
MASK_PREFIX = "fggp.mask."
STATE_PREFIX = "fggp.state."  # in savepoints: what a run needs to resume
_VERSION = 1
_TYPES: dict[str, Any] = {
    "model": str,
    "data": str,
    "classes": list,
    "prunable": list,
    "macs": dict,
    "target": int | float | None,
    "method": str | None,
    "reference_sha256": str | None,
    "metrics": dict,
    "provenance": dict,
    "model_code_sha256": str | None,
}


@dataclass(frozen=True)
class CheckpointInfo:
    """The description that a checkpoint holds of itself.

    `model`: the network's name; of one in the user's own file, FILE.py:FACTORY with the path from
    the run's folder, and `model_code_sha256` is the file's hash.
    `macs`: parameter → dense multiply-accumulates for one image. `prunable`: the parameters that
    sparsity is counted over. `reference_sha256`: hash of the parent checkpoint's file. `names`: our
    names of parameters → those in the user's own code, if they differ.
    """

    model: str
    data: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    prunable: tuple[str, ...] = ()
    target: float | None = None
    method: str | None = None
    macs: Mapping[str, int] = field(default_factory=dict)
    reference_sha256: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    model_code_sha256: str | None = None

    def to_json(self) -> str:
        """One JSON object."""
        d = {**self.__dict__, "preprocessing": self.preprocessing.to_dict(), "version": _VERSION}
        return json.dumps(d, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CheckpointInfo:
        """Read what `to_json` wrote; raises CheckpointError on anything else."""
        try:
            d = json.loads(text)
            if d.pop("version") != _VERSION:
                raise CheckpointError("the checkpoint has a newer format; upgrade fggp-deploy")
            for key, kind in _TYPES.items():
                if not isinstance(d.get(key), kind):
                    raise TypeError(f"{key} is {d.get(key)!r:.40}")
            d["preprocessing"] = Preprocessing.from_dict(d["preprocessing"])
            d["classes"] = tuple(str(c) for c in d["classes"])
            d["prunable"] = tuple(str(n) for n in d["prunable"])
            d["macs"] = {str(k): int(v) for k, v in d["macs"].items()}
            d["names"] = {str(k): str(v) for k, v in d.get("names", {}).items()}
            return cls(**d)
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise CheckpointError(f"the checkpoint's own description is damaged ({e})") from e
        except (OverflowError, RecursionError) as e:
            raise CheckpointError("the checkpoint's own description is damaged") from e


@dataclass(frozen=True)
class Checkpoint:
    """Weights, masks and description. `info` is None for a plain safetensors state dict."""

    tensors: Mapping[str, Array]
    masks: Mapping[str, Array]
    info: CheckpointInfo | None

    def save(self, path: Path) -> None:
        """Write atomically; raises MachineError if the file cannot be written."""
        content = safetensors.numpy.save(self.arrays(), {"fggp": self.described()})
        with atomic_path(path) as tmp:
            tmp.write_bytes(content)

    def arrays(self) -> dict[str, Array]:
        """All tensors of the file by name, the masks packed."""
        packed = {
            MASK_PREFIX + name: np.packbits(mask.reshape(-1), bitorder="little")
            for name, mask in self.masks.items()
        }
        return {name: np.asarray(a, order="C") for name, a in self.tensors.items()} | packed

    def described(self) -> str:
        """The description as the file holds it; raises ConfigError if there is none."""
        if self.info is None:
            raise ConfigError(
                "a checkpoint cannot be saved without its description (info), got None"
            )
        return self.info.to_json()

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read and check a safetensors file; raises CheckpointError if it is damaged."""
        with _reading(path) as f:
            info = _info(f)
            names = [n for n in f.keys() if not n.startswith(STATE_PREFIX)]  # noqa: SIM118
            tensors = {name: f.get_tensor(name) for name in names}
        packed = {n: tensors.pop(n) for n in list(tensors) if n.startswith(MASK_PREFIX)}
        check_finite(path, tensors)
        masks = {n.removeprefix(MASK_PREFIX): a for n, a in packed.items()}
        return cls(tensors, {n: _unpack(path, n, a, tensors) for n, a in masks.items()}, info)


def is_ours(path: Path) -> bool:
    """True for a checkpoint that prune or train wrote; raises as `open` does."""
    if not is_safetensors(head_of(path), path):
        return False
    with _reading(path) as f:
        return _info(f) is not None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    check_readable(path, CheckpointError)
    try:
        with safe_open(path, framework="numpy") as f:
            yield f
    except (SafetensorError, OSError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({e}); it may be cut off: copy it again"
        ) from e


def _info(f: Any) -> CheckpointInfo | None:
    text = (f.metadata() or {}).get("fggp")
    return CheckpointInfo.from_json(text) if text is not None else None


def check_finite(path: Path, tensors: Mapping[str, Array]) -> None:
    """Raise CheckpointError at the first tensor that holds NaN or infinity."""
    for name, a in tensors.items():
        if np.issubdtype(a.dtype, np.floating) and not np.isfinite(a).all():
            raise CheckpointError(
                f"{path}: {name} holds NaN or infinity; its training diverged, so use an earlier "
                "checkpoint"
            )


def _unpack(path: Path, name: str, packed: Array, tensors: Mapping[str, Array]) -> Array:
    weight = tensors.get(name)
    if weight is None or packed.dtype != np.uint8 or packed.shape != ((weight.size + 7) // 8,):
        raise CheckpointError(
            f"{path}: the mask of {name!r} does not match the shape of any weight"
        )
    mask = np.unpackbits(packed, count=weight.size, bitorder="little").astype(bool)
    if np.any(weight.reshape(-1)[~mask]):
        raise CheckpointError(
            f"{path}: {name} has non-zero weights that its mask removes; set them to zero and "
            "save it again"
        )
    return mask.reshape(weight.shape)
