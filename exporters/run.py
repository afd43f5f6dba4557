"""Export a run: its checkpoint in any format, and its parent as the reference to verify against."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onnx import ModelProto
from torch import nn
from torch.nn.parameter import is_lazy

from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo, is_ours
from fggp_deploy.checkpoints.foreign import read_foreign
from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.checkpoints.run_folder import is_running, parent_of, run_of
from fggp_deploy.common.files import sha256_file
from fggp_deploy.common.progress import Progress
from fggp_deploy.common.progress import silent as unseen
from fggp_deploy.data import Preprocessing
from fggp_deploy.errors import ConfigError, FggpWarning, ModelFileError, command
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.self_test import Floats
from fggp_deploy.measure.evaluation_data import images_of
from fggp_deploy.measure.network import load as load_network
from fggp_deploy.models.checkpointing import restore
from fggp_deploy.models.probing import check_runs
from fggp_deploy.pruning.prunable import NO_SHAPE
from fggp_deploy.pruning.wrappers import unwrap_parts_, unwrapped
from fggp_deploy.quantization.activations import in_bytes
from fggp_deploy.verification.certificate import weights

from . import STATE_DICT, Note, exporter_options, load, plain_weights, silent, state_dict
from .compaction import Compacted, compacted, n_removable
from .file_metadata import counts_of, metadata_of, record, sparsity_of, to_ship
from .plain_weights import UNKNOWN, Images
from .reference import refuse_to_replace, write_reference
from .stale import set_aside_report
from .torch_onnx import to_onnx

_FEW_ZEROS = 0.001  # of the weights, below which a network counts as dense


@dataclass(frozen=True)
class Exported:
    """What an export made.

    `file_bytes` is of the file (a folder's files together) and `sha256` its hash, or that of its
    files' names and hashes. `self_test_error` is the largest logit difference to the network that
    the file was made from, `rounding_error` the one that rounded values make on the self-test's
    inputs, and `largest_logit` what to hold them against. `notes` are lines for the user, such as
    the weights that were left dense. `compaction` is what --compact took away; `sparsity` is that
    of the network before.
    """

    path: Path
    format: str
    values: str
    file_bytes: int
    sha256: str
    reference: Path | None
    reference_bytes: int | None
    sparsity: float
    self_test_error: float
    rounding_error: float | None
    largest_logit: float
    notes: tuple[str, ...]
    compaction: Compacted | None = None


def export_run(
    checkpoint: Path,
    *,
    format: str = "onnx",
    out: Path | None = None,
    flat: bool = False,
    values: str = "fp32",
    activations: str = "fp32",
    compact: bool = False,
    data: str | None = None,
    data_dir: Path | None = None,
    network: str | None = None,
    images: Images = UNKNOWN,
    trust_code: bool = False,
    progress: Progress = unseen,
) -> Exported:
    """Write `checkpoint` in a format beside it, or at `out`, and check what was written.

    It is a run's checkpoint, or plain weights that were pruned elsewhere, of which `network` says
    the network and `images` the images.

    The parent that lies beside the checkpoint becomes `reference.onnx` beside the file. `flat` and
    `values` (fp32, fp16, int8) are for the format onnx. `activations` int8, which implies int8
    values, rounds activations to bytes whose ranges are found on training images of `data` (the
    run's own where None). `compact` removes dead channels. `network`: name of the network
    in place of what the checkpoint says, for a FILE.py:FACTORY that has moved. `trust_code`: run
    that file. Raises CheckpointError, UnknownName, DataError, MachineError, and
    ModelFileError when the file under onnxruntime does not give the network's own logits.
    """
    options = exporter_options(format, flat=flat, values=values, activations=activations)
    values = options.get("values", "fp32")
    if format == STATE_DICT:
        if compact:
            raise ConfigError(
                "--compact is for ONNX formats; a state-dict keeps its network's shapes"
            )
        return _export_state_dict(
            checkpoint, out=out, network=network, images=images, trust_code=trust_code
        )
    began = datetime.now(UTC)
    exporter = load(format)
    name = exporter.DEFAULT_NAME
    if options:
        kind = "w8a8" if activations != "fp32" else "" if values == "fp32" else values
        name = f"model{'.' * bool(kind)}{kind}{'.flat' if flat else ''}.onnx"
    if compact:
        name = name.replace("model", "model.compact", 1)
    ours = is_ours(checkpoint)
    if not ours:
        name = name.replace("model", checkpoint.stem, 1)
    elif checkpoint.stem.startswith("pruned-"):  # one of a run's several targets
        name = name.replace("model", checkpoint.stem.replace("pruned", "model"))
    if out is not None and out.suffix != Path(name).suffix:
        raise ConfigError(f"--out {out} must end in {Path(name).suffix} for --format {format}")
    notes: list[str] = []
    content, info, model = _read(
        checkpoint, network=network, images=images, trust_code=trust_code, note=notes.append
    )
    folder = run_of(checkpoint) if ours else checkpoint.parent
    path = out or folder / name
    reference = None
    if ours:
        parent = parent_of(checkpoint)
        if path.parent != folder:
            refuse_to_replace(path.parent, parent)
        reference = write_reference(parent, path.parent, network=network, trust_code=trust_code)
    setting = {
        "format": format, "flat": flat, "values": values, "activations": activations,
        "compact": compact,
    }  # fmt: skip
    provenance = Provenance.of(setting, began).to_dict()
    metadata = dataclasses.replace(
        metadata_of(model, info, content),
        checkpoint_sha256=sha256_file(checkpoint) if ours else None,
        parent_sha256=sha256_file(reference) if reference else None,
        provenance={"export": to_ship(provenance), "prune": to_ship(info.provenance)},
    )
    if folder != checkpoint.parent:
        notes.append(_unfinished(checkpoint))
    dense, about = to_onnx(model, metadata), None
    if compact:
        dense, about = compacted(dense, _feeds(dense, metadata))
        counts = counts_of(dense, metadata.sparsity)
        metadata = dataclasses.replace(metadata, sparsity=counts)
        sparsity = counts["before_compaction"]
    else:
        sparsity = metadata.sparsity
        if n_dead := n_removable(dense):
            notes.append(
                f"{n_dead} channels say nothing to the output any more; --compact takes them out "
                f"of the network, so that every runtime does less"
            )
    if activations != "fp32":
        found = images_of(
            metadata, checkpoint.parent, data, data_dir, parts=("train",), progress=progress
        )
        dense, told = in_bytes(dense, found, metadata.preprocessing)
        notes += told
    written, error = _write(dense, metadata, path, format, options, notes.append)
    if (stale := set_aside_report(path)) is not None:
        notes.insert(0, f"the report of the file that was here before is {stale.name} now")
    n_removed, n_prunable = sparsity["n_removed"], sparsity["n_prunable"]
    test, unrounded = written.metadata.selftest, written.metadata.unrounded
    assert test is not None  # _metadata recorded it
    return Exported(
        path=path,
        format=format,
        values=values,
        file_bytes=written.file_bytes(),
        sha256=sha256_file(path),
        reference=reference,
        reference_bytes=reference.stat().st_size if reference else None,
        sparsity=n_removed / n_prunable if n_prunable else 0.0,
        self_test_error=error,
        rounding_error=_difference(test.logits, unrounded.logits) if unrounded else None,
        largest_logit=float(abs(test.logits).max()),
        notes=tuple(notes),
        compaction=about,
    )


def _unfinished(savepoint: Path) -> str:
    step, run = int(savepoint.stem.removeprefix("step-")), run_of(savepoint)
    if is_running(run):
        cure = "it is still going; export again when it has ended"
    else:
        cure = f"resume with {command('fggp-deploy', 'prune', '--out', run)}, then export again"
    return f"the run is not finished, this is its network after step {step}: {cure}"


def _read(
    path: Path, *, network: str | None, images: Images, trust_code: bool, note: Note
) -> tuple[Checkpoint, CheckpointInfo, nn.Module]:
    if is_ours(path):
        images.refuse_for(path)
        content = Checkpoint.open(path)
        model = restore(content, path, network=network, trust_code=trust_code)
    else:
        content, model = plain_weights.read(path, network, images, trust_code=trust_code, note=note)
    assert content.info is not None  # is_ours has seen it, or plain_weights has made it
    return content, content.info, model


def _export_state_dict(
    checkpoint: Path, *, out: Path | None, network: str | None, images: Images, trust_code: bool
) -> Exported:
    if out is not None and out.suffix not in state_dict.SUFFIXES:
        raise ConfigError(
            f"--out {out} must end in {', '.join(state_dict.SUFFIXES)} for --format state-dict"
        )
    content, info, model = _read(
        checkpoint, network=network, images=images, trust_code=trust_code, note=silent
    )
    path = state_dict.write(content, out or checkpoint.with_name(state_dict.DEFAULT_NAME))
    test = record(model, info.preprocessing)
    ours = {theirs: n for n, theirs in info.names.items()}
    written = {ours.get(n, n): t for n, t in read_foreign(path).tensors.items()}
    model.load_state_dict(written, strict=True)
    again = record(model, info.preprocessing)
    sparsity = sparsity_of(info, content)
    return Exported(
        path=path,
        format=STATE_DICT,
        values="fp32",
        file_bytes=path.stat().st_size,
        sha256=sha256_file(path),
        reference=None,
        reference_bytes=None,
        sparsity=sparsity["n_removed"] / max(1, sparsity["n_prunable"]),
        self_test_error=_difference(again.logits, test.logits),
        rounding_error=None,
        largest_logit=float(abs(test.logits).max()),
        notes=(),
    )


def export_model(
    model: nn.Module,
    path: Path,
    *,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    format: str = "onnx",
    values: str = "fp32",
    note: Note = silent,
) -> Path:
    """Write any pruned network of your own, [N, C, H, W] images → [N, classes] logits.

    It may be wrapped (torch.compile, DataParallel, DDP, AveragedModel), on any device, and in half
    precision; the file computes in float32. The model itself is not changed. The file carries a
    self-test, as those of a run do, and is checked against it. `note` hears a line for every weight
    that was left dense; a warning says so if the network has no zeros at all. Raises as
    `export_run`, and ConfigError if the network does not turn images into logits.
    """
    options = exporter_options(format, values=values)
    network = _plain(model)
    check_runs(network, type(network).__name__, preprocessing.input_shape, len(classes))
    metadata = Metadata(preprocessing, tuple(classes), record(network, preprocessing))
    dense = to_onnx(network, metadata)
    _warn_if_dense(dense)
    _write(dense, metadata, path, format, options, note)
    return path


def _plain(model: nn.Module) -> nn.Module:
    """A copy of the network without wrappers, on the CPU, in float32 and eval mode."""
    if lazy := [n for n, p in model.named_parameters() if is_lazy(p)]:
        raise ConfigError(f"{lazy[0]} {NO_SHAPE}")
    return unwrap_parts_(copy.deepcopy(unwrapped(model))).cpu().float().eval()


def _warn_if_dense(dense: ModelProto) -> None:
    layers = weights(dense).values()
    if sum(int((w == 0).sum()) for w in layers) < _FEW_ZEROS * sum(w.size for w in layers):
        warnings.warn(
            "the network has no zeros to speak of, so its file is as large as a dense one; if it "
            "was pruned, this is another copy of the weights, as a moving average is: give it to "
            "Pruner(also=[…]), or set its zeros with pruner.finish().apply_(model)",
            FggpWarning,
            stacklevel=3,
        )


def _feeds(dense: ModelProto, metadata: Metadata) -> dict[str, Floats]:
    """The self-test's inputs for a graph."""
    assert metadata.selftest is not None  # _metadata recorded it
    return {dense.graph.input[0].name: metadata.selftest.probe(metadata.preprocessing.input_shape)}


def _write(
    dense: ModelProto,
    metadata: Metadata,
    path: Path,
    format: str,
    options: Mapping[str, Any],
    note: Note,
) -> tuple[SparseModel, float]:
    """Write and read back a file; and the largest difference of its self-test under onnxruntime."""
    exporter = load(format)
    exporter.export(dense, metadata, path, note=note, **options)
    written = SparseModel.open(path)
    return written, _self_test(written)


def _self_test(written: SparseModel) -> float:
    """Largest logit difference of the file under onnxruntime; raises when it is out of bounds."""
    meta = written.metadata
    assert meta.selftest is not None  # _metadata recorded it
    network = load_network(written.path.name, written.runnable(), threads=1)
    got = meta.selftest.logits_of(network.logits, meta.preprocessing.input_shape)
    if not meta.selftest.passes(got):
        raise ModelFileError(
            f"{written.path} gives other logits than the network that it was made from; "
            f"do not ship it, and report this"
        )
    return _difference(got, meta.selftest.logits)


def _difference(a: Floats, b: Floats) -> float:
    return float(abs(a - b).max())
