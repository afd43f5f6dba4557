"""What is in a checkpoint or an exported file: its weights, and what it says about itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fggp_deploy.checkpoints.checkpoint import Checkpoint, is_ours
from fggp_deploy.checkpoints.file_type import SUFFIXES, is_checkpoint
from fggp_deploy.errors import ConfigError
from fggp_deploy.format.metadata import removed_before_compaction
from fggp_deploy.format.model import Layer, SparseModel


@dataclass(frozen=True)
class WeightRow:
    """One weight tensor. `macs`: dense multiply-accumulates an image; `n_bytes`: as stored.

    `of_layer` is False for a constant that belongs to no layer; it is not counted as a weight.
    """

    name: str
    shape: tuple[int, ...]
    n_total: int
    n_removed: int
    n_bytes: int
    macs: int | None
    encoding: str
    prunable: bool | None
    of_layer: bool = True


@dataclass(frozen=True)
class Inspection:
    """The weight tensors of a file, and `about`: other facts by name, for a person to read."""

    rows: list[WeightRow]
    about: dict[str, Any]

    @property
    def weights(self) -> list[WeightRow]:
        """The rows that belong to a layer."""
        return [r for r in self.rows if r.of_layer]

    def totals(self) -> dict[str, int]:
        """Counts over the prunable weights, and over all weights of layers.

        If the file does not say which weights are prunable, all of them count as such.
        """
        counted = [r for r in self.weights if r.prunable] or self.weights
        return {
            "n_prunable": sum(r.n_total for r in counted),
            "n_removed": sum(r.n_removed for r in counted),
            "n_all_weights": sum(r.n_total for r in self.weights),
            "n_all_removed": sum(r.n_removed for r in self.weights),
        }


def inspect_file(path: Path) -> Inspection:
    """Read a checkpoint, an .onnx file or a .csr folder. Its content decides what it is.

    Only if the content does not say, the suffix decides. Raises ConfigError for any other file,
    and what reading the file raises.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist")
    if path.is_dir():
        return _exported(path)
    if is_checkpoint(path):
        return _checkpoint(path)
    if path.suffix == ".onnx":
        return _exported(path)
    if path.suffix in SUFFIXES:
        return _checkpoint(path)  # its error describes the problem
    raise ConfigError(
        f"{path} is not a checkpoint and is not named .onnx; inspect reads {', '.join(SUFFIXES)}, "
        ".onnx, .csr and run folders"
    )


def _exported(path: Path) -> Inspection:
    model = SparseModel.open(path)
    meta = model.metadata
    if meta.preprocessing is None:
        return Inspection([_row(x) for x in model.layers], {"file_bytes": model.file_bytes()})
    recorded = meta.sparsity.get("prunable")
    prunable = {n for n in recorded if isinstance(n, str)} if isinstance(recorded, list) else set()
    before = removed_before_compaction(meta.sparsity)
    about = {
        "file_bytes": model.file_bytes(), "model": meta.model, "data": meta.data,
        "parent_sha256": meta.parent_sha256,
        "activations": "bytes" if model.has_quantized_activations else "fp32",
        **({} if before is None else {"removed_before_compaction": before}),
    }  # fmt: skip
    return Inspection([_row(x, prunable) for x in model.layers], about)


def _row(layer: Layer, prunable: Collection[str] = ()) -> WeightRow:
    names = {layer.name, f"{layer.name}.weight"}
    return WeightRow(
        layer.name, layer.shape, layer.size, layer.size - layer.nnz, layer.stored_bytes,
        layer.macs, layer.encoding, not names.isdisjoint(prunable) if prunable else None,
        layer.of_layer,
    )  # fmt: skip


def _checkpoint(path: Path) -> Inspection:
    if not is_ours(path):
        from fggp_deploy.checkpoints.foreign import read_foreign  # which needs torch

        tensors = read_foreign(path).tensors
        return Inspection(_weights({n: t.float().numpy() for n, t in tensors.items()}), {})
    content = Checkpoint.open(path)
    info = content.info
    assert info is not None  # it describes itself
    about = {
        "model": info.model, "data": info.data, "method": info.method, "target": info.target,
        **info.metrics,
    }  # fmt: skip
    return Inspection(_weights(content.tensors, info.macs, info.prunable), about)


def _weights(
    tensors: Mapping[str, npt.NDArray[Any]],
    macs: Mapping[str, int] | None = None,
    prunable: Collection[str] | None = None,
) -> list[WeightRow]:
    """The tensors that have `macs`; without those, every tensor of two or more axes."""
    return [
        WeightRow(
            name, tuple(a.shape), a.size, int((a == 0).sum()), a.nbytes,
            macs[name] if macs else None, "dense", name in prunable if prunable else None,
        )
        for name, a in tensors.items()
        if (name in macs if macs else a.ndim >= 2)
    ]  # fmt: skip
