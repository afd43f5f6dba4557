"""fggp-deploy inspect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .exit_codes import with_exit_codes

if TYPE_CHECKING:
    from fggp_deploy.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class Row:
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


@with_exit_codes
def inspect(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A checkpoint, .onnx, .csr folder or run folder. Default: the newest run in runs/."
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Show what is in a checkpoint or an exported file: sparsity, MACs and bytes by layer."""
    from fggp_deploy.checkpoints.run_folder import PRUNED, checkpoint_in, newest

    from .render import as_json, size, stdout, table

    path = path or newest(PRUNED)
    if path.is_dir() and path.suffix != ".csr":
        path = checkpoint_in(path)
    rows, about = _read(path)
    weights = [r for r in rows if r.of_layer]
    counted = [r for r in weights if r.prunable] or weights
    total = {
        "n_prunable": sum(r.n_total for r in counted),
        "n_removed": sum(r.n_removed for r in counted),
        "n_all_weights": sum(r.n_total for r in weights),
        "n_all_removed": sum(r.n_removed for r in weights),
    }
    if json:
        as_json({"path": path, **about, **total, "layers": [asdict(r) for r in rows]})
        return
    macs = sum(r.macs or 0 for r in rows) or 1
    before = about.pop("removed_before_compaction", None)
    table(
        str(path) if before is None else f"{path}: {before:.2%} removed, then compacted",
        ("weight", "shape", "sparsity", "kept", "MACs", "bytes", "stored as"),
        [
            (
                r.name + _remark(r),
                "×".join(map(str, r.shape)),
                f"{r.n_removed / max(r.n_total, 1):.2%}",
                f"{r.n_total - r.n_removed:,}",
                "–" if r.macs is None else f"{r.macs / macs:.1%}",
                size(r.n_bytes),
                r.encoding,
            )
            for r in rows
        ],
    )
    if any(r.prunable for r in weights):
        stdout.print(
            f"prunable weights: {total['n_removed']:,} of {total['n_prunable']:,} removed "
            f"({total['n_removed'] / max(total['n_prunable'], 1):.4%})"
        )
    stdout.print(
        f"all conv and linear weights: {total['n_all_removed']:,} of {total['n_all_weights']:,} "
        f"({total['n_all_removed'] / max(total['n_all_weights'], 1):.4%})"
    )
    for key, value in about.items():
        stdout.print(f"{key.replace('_', ' ')}: {value}")


def _remark(row: Row) -> str:
    if not row.of_layer:
        return " (no weight of a layer)"
    return " (dense by choice)" if row.prunable is False else ""


def _read(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """What is in a file, by its content; the suffix decides only what the content does not."""
    from fggp_deploy.checkpoints.file_type import SUFFIXES, is_checkpoint
    from fggp_deploy.errors import ConfigError

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


def _exported(path: Path) -> tuple[list[Row], dict[str, Any]]:
    from fggp_deploy.format.metadata import removed_before_compaction
    from fggp_deploy.format.model import SparseModel, foreign_layers
    from fggp_deploy.graph.reading import stored_bytes

    if path.is_file() and (found := foreign_layers(path)) is not None:
        rows = [
            Row(
                x.name,
                x.shape,
                x.size,
                x.size - x.nnz,
                x.stored_bytes,
                x.macs,
                x.encoding,
                None,
                x.of_layer,
            )
            for x in found
        ]
        return rows, {"file_bytes": stored_bytes(path)}
    model = SparseModel.open(path)
    meta = model.metadata
    recorded = meta.sparsity.get("prunable")
    prunable = {n for n in recorded if isinstance(n, str)} if isinstance(recorded, list) else set()
    before = removed_before_compaction(meta.sparsity)
    rows = [
        Row(
            layer.name, layer.shape, layer.size, layer.size - layer.nnz, layer.stored_bytes,
            layer.macs, layer.encoding,
            bool(prunable & {layer.name, f"{layer.name}.weight"}) if prunable else None,
            layer.of_layer,
        )
        for layer in model.layers
    ]  # fmt: skip
    return rows, {
        "file_bytes": model.file_bytes(), "model": meta.model, "data": meta.data,
        "parent_sha256": meta.parent_sha256,
        "activations": "bytes" if model.has_quantized_activations else "fp32",
        **({} if before is None else {"removed_before_compaction": before}),
    }  # fmt: skip


def _checkpoint(path: Path) -> tuple[list[Row], dict[str, Any]]:
    from fggp_deploy.checkpoints.checkpoint import Checkpoint, is_ours

    if is_ours(path):  # which needs no torch to be shown
        return _ours(Checkpoint.open(path))
    from fggp_deploy.checkpoints.foreign import read_foreign

    return _weights({n: t.float().numpy() for n, t in read_foreign(path).tensors.items()}), {}


def _ours(checkpoint: Checkpoint) -> tuple[list[Row], dict[str, Any]]:
    info = checkpoint.info
    assert info is not None  # it describes itself
    rows = _weights(checkpoint.tensors, info.macs, info.prunable, info.macs)
    return rows, {
        "model": info.model, "data": info.data, "method": info.method, "target": info.target,
        **info.metrics,
    }  # fmt: skip


def _weights(tensors: Any, macs: Any = None, prunable: Any = None, names: Any = None) -> list[Row]:
    """Every tensor of two or more axes, or those in `names`."""
    return [
        Row(
            name, tuple(a.shape), a.size, int((a == 0).sum()), a.nbytes,
            (macs or {}).get(name), "dense", name in prunable if prunable else None,
        )
        for name, a in tensors.items()
        if (name in names if names else a.ndim >= 2)
    ]  # fmt: skip
