"""Export a run: its checkpoint in any format, and its parent as the reference to verify against."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fggp_deploy.artifacts.checkpoint import Checkpoint, CheckpointInfo
from fggp_deploy.artifacts.metadata import Metadata
from fggp_deploy.artifacts.provenance import Provenance
from fggp_deploy.artifacts.selftest import Floats, SelfTest
from fggp_deploy.artifacts.sparse_model import SparseModel
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import CheckpointError, ConfigError, ModelFileError
from fggp_deploy.files import sha256_file
from fggp_deploy.folder import REFERENCE, parent_of
from fggp_deploy.training.start import restore
from fggp_deploy.verify.network import load as load_network

from . import load, onnx_dense
from .torch_onnx import to_onnx


@dataclass(frozen=True)
class Exported:
    """What an export made. Bytes of the file (a folder's files together) and of the reference."""

    path: Path
    format: str
    file_bytes: int
    reference: Path | None
    reference_bytes: int | None
    sparsity: float
    self_test_error: float


def export_run(
    checkpoint: Path, *, format: str = "onnx", out: Path | None = None, flat: bool = False
) -> Exported:
    """Write `checkpoint` in a format beside it, or at `out`, and check what was written.

    The parent that lies beside the checkpoint becomes `reference.onnx` beside the file. Raises
    CheckpointError, UnknownName, MachineError, and ModelFileError when the file under onnxruntime
    does not give the network's own logits.
    """
    began = datetime.now(UTC)
    exporter = load(format)
    name = "model.flat.onnx" if flat else exporter.DEFAULT_NAME
    if checkpoint.stem.startswith("pruned-"):  # one of a run's several targets
        name = name.replace("model", checkpoint.stem.replace("pruned", "model"))
    if out is not None and out.suffix != Path(name).suffix:
        raise ConfigError(f"--out {out} must end in {Path(name).suffix} for --format {format}")
    if checkpoint.suffix != ".safetensors":
        raise CheckpointError(
            f"export reads what prune or train wrote (.safetensors), not {checkpoint}; "
            f"prune it first"
        )
    content = Checkpoint.open(checkpoint)
    if content.info is None:
        raise CheckpointError(
            f"{checkpoint} does not say which network it is; only what prune or train wrote can "
            f"be exported"
        )
    model = restore(content, checkpoint)
    path = out or checkpoint.with_name(name)
    reference = _reference(parent_of(checkpoint), path.parent)
    provenance = Provenance.of({"format": format, "flat": flat}, began).to_dict()
    metadata = dataclasses.replace(
        _metadata(model, content.info, content),
        checkpoint_sha256=sha256_file(checkpoint),
        parent_sha256=sha256_file(reference) if reference else None,
        provenance={"export": _to_ship(provenance), "prune": _to_ship(content.info.provenance)},
    )
    dense = to_onnx(model, metadata)
    options = {"flat": True} if flat else {}
    exporter.export(dense, metadata, path, **options)
    written = SparseModel.open(path)
    n_removed, n_prunable = metadata.sparsity["n_removed"], metadata.sparsity["n_prunable"]
    return Exported(
        path=path,
        format=format,
        file_bytes=written.file_bytes(),
        reference=reference,
        reference_bytes=reference.stat().st_size if reference else None,
        sparsity=n_removed / n_prunable if n_prunable else 0.0,
        self_test_error=_self_test(written),
    )


def export_model(
    model: nn.Module,
    path: Path,
    *,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    format: str = "onnx",
) -> Path:
    """Write any pruned network of your own, [N, C, H, W] images → [N, classes] logits.

    The file carries a self-test, as those of a run do, and is checked against it. Raises as
    `export_run`.
    """
    metadata = Metadata(preprocessing, tuple(classes), _record(model.eval(), preprocessing))
    load(format).export(to_onnx(model, metadata), metadata, path)
    _self_test(SparseModel.open(path))
    return path


def _to_ship(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance without the command line and the folders of the machine that made the file."""
    kept = {k: v for k, v in provenance.items() if k != "command"}
    paths = ("checkpoint", "data_dir")
    config = dict(kept.get("config") or {})
    config |= {k: Path(config[k]).name for k in paths if config.get(k)}
    return kept | {"config": config} if kept else {}


def _reference(parent: Path, folder: Path) -> Path | None:
    """The parent as a plain ONNX file in `folder`; kept when it is there already."""
    if not parent.is_file():
        return None
    path = folder / REFERENCE
    sha256 = sha256_file(parent)
    if path.is_file():
        try:
            if SparseModel.open(path).metadata.checkpoint_sha256 == sha256:
                return path
        except ModelFileError:
            pass  # not ours or damaged: written anew
    content = Checkpoint.open(parent)
    model = restore(content, parent)
    assert content.info is not None  # restore has seen it
    metadata = dataclasses.replace(
        _metadata(model, content.info, content), checkpoint_sha256=sha256
    )
    return onnx_dense.export(to_onnx(model, metadata), metadata, path)


def _metadata(model: nn.Module, info: CheckpointInfo, content: Checkpoint) -> Metadata:
    prunable = [content.tensors[n] for n in info.prunable]
    weights = [content.tensors[n] for n in info.macs]
    return Metadata(
        preprocessing=info.preprocessing,
        classes=info.classes,
        selftest=_record(model, info.preprocessing),
        data=info.data,
        model=info.model,
        sparsity={
            "target": info.target,
            "method": info.method,
            "prunable": list(info.prunable),
            "n_prunable": sum(w.size for w in prunable),
            "n_removed": sum(int((w == 0).sum()) for w in prunable),
            "n_all_weights": sum(w.size for w in weights),
            "n_all_removed": sum(int((w == 0).sum()) for w in weights),
        },
    )


def _record(model: nn.Module, preprocessing: Preprocessing) -> SelfTest:
    @torch.no_grad()
    def run(x: Floats) -> Floats:
        logits: Floats = model(torch.from_numpy(x)).numpy()
        return logits

    return SelfTest.record(run, preprocessing.input_shape)


def _self_test(written: SparseModel) -> float:
    """Largest logit difference of the file under onnxruntime; raises when it is out of bounds."""
    meta = written.metadata
    assert meta.selftest is not None  # _metadata recorded it
    network = load_network(written.path.name, written.runnable(), threads=1)
    got = network.logits(meta.selftest.probe(meta.preprocessing.input_shape))
    if not meta.selftest.passes(got):
        raise ModelFileError(
            f"{written.path} gives other logits than the network that it was made from; "
            f"do not ship it, and report this"
        )
    return float(abs(got - meta.selftest.logits).max())
