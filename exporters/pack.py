"""Packs any ONNX file whose weights hold zeros, whoever made it, and checks the result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.common.files import sha256_file, write_atomic
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.format.choice import rounded_to_int8
from fggp_deploy.format.encodings.base import ValueType
from fggp_deploy.format.functions import DOMAIN, MIN_OPSET
from fggp_deploy.format.generated_inputs import Array, feeds
from fggp_deploy.format.metadata import PREFIX
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.packing import Packing
from fggp_deploy.format.unpacking import split, unpack
from fggp_deploy.graph.constants import initializers, unlist_initializers_
from fggp_deploy.graph.lifting import lift_weights
from fggp_deploy.graph.opset import standard_opset, with_opset
from fggp_deploy.graph.reading import read_model, reading, stored_bytes
from fggp_deploy.graph.weights import count_weights
from fggp_deploy.runtime.probing import first_run_apart, first_that_runs
from fggp_deploy.runtime.region_file import with_regions
from fggp_deploy.runtime.sessions import SessionConfig

from .compaction import Compacted, compacted
from .onnx import TYPES
from .options import PackOptions
from .packed_metadata import classifier_metadata, properties_of
from .parity import Parity, check_converted, compare_packed
from .rounding import Rounding

_DEFAULT = PackOptions()


@dataclass(frozen=True)
class PackedFile:
    """What `pack_file` wrote.

    `n_packed` tensors were packed. `n_weights` and `n_zeros` count the weights of all convolution,
    linear and recurrent layers, packed or not, and no other constants. `ran` names the inputs on
    which the file was run against its source. It is empty if the source could not be run; then
    `why_not` gives the reason, and only the weights were compared, all of them. `bit_equal` and
    `error`, relative to the largest output, are of stock ONNX Runtime, `kernels_error` of the
    kernels; it is None without the kernel library. If values were rounded, these are relative to
    the rounded network, and `rounding` is what rounding changed. `preprocessing` says whether the
    file knows how its images are prepared. `notes` are lines for the user, such as the weights that
    were left dense.
    """

    path: Path
    source: Path
    file_bytes: int
    source_bytes: int
    sha256: str
    values: str
    n_packed: int
    n_weights: int
    n_zeros: int
    opset: int
    source_opset: int
    ran: tuple[str, ...]
    why_not: str
    bit_equal: bool | None
    error: float | None
    kernels_error: float | None
    rounding: Rounding | None
    preprocessing: bool
    notes: tuple[str, ...]
    compaction: Compacted | None = None


def pack_file(source: Path, out: Path | None = None, options: PackOptions = _DEFAULT) -> PackedFile:
    """Pack any ONNX file to `out` (by default `NAME.packed.onnx`), and check what was packed.

    Raises ModelFileError for a source that cannot be read, has nothing to pack, or whose packed
    form cannot be shown to be the same network; ConfigError for options that do not fit it.
    """
    began = datetime.now(UTC)
    path = _output_path(source, out)
    model = _read(source)
    source_opset = standard_opset(model)
    listed = unlist_initializers_(model)
    with reading(str(source)):
        dense = with_opset(unpack(model), MIN_OPSET, name=str(source))
        first_run_apart(source, options.shape, name=source.name)
        converted = dense if source_opset < MIN_OPSET else None
        compaction = None
        if options.compact:
            dense, compaction = _compacted(source, dense, options)
        packing = Packing.of(dense, values=TYPES[options.values])
        n_removed = compaction.n_removed if compaction else 0
        if not n_removed and all(n.domain != DOMAIN for n in packing.model.graph.node):
            raise ModelFileError(f"{source} has nothing to pack; {_why_nothing(packing)}")
        n_packed = _check_weights(dense, packing, TYPES[options.values])
        n_weights, n_zeros = count_weights(unpack(packing.model))
    if converted is not None:
        check_converted(source, source_opset, converted, options.shape)
    packed, notes = packing.model, _notes(dense, packing, listed)
    if options.regions:
        packed, what = with_regions(packed)
        notes = (*notes, f"regions: {what}")
    parity = compare_packed(source, packed, options)
    if parity.test is None:
        _refuse_without_proof(source, source_opset, parity, options)
    metadata = classifier_metadata(model, parity, options)
    setting = {
        "values": options.values, "opset": source_opset, "source_sha256": sha256_file(source)
    }  # fmt: skip
    provenance = Provenance.of(setting, began).to_dict()
    provenance.pop("command")
    _write(path, packed, properties_of(model, metadata, parity, provenance))
    return PackedFile(
        path=path,
        source=source,
        file_bytes=path.stat().st_size,
        source_bytes=stored_bytes(source),
        sha256=sha256_file(path),
        values=options.values,
        n_packed=n_packed,
        n_weights=n_weights,
        n_zeros=n_zeros,
        opset=standard_opset(packing.model),
        source_opset=source_opset,
        ran=parity.ran,
        why_not=parity.why_not,
        bit_equal=parity.bit_equal,
        error=parity.error,
        kernels_error=parity.kernels_error,
        rounding=parity.rounding,
        preprocessing=metadata is not None,
        notes=notes,
        compaction=compaction,
    )


def _output_path(source: Path, out: Path | None) -> Path:
    path = out or source.with_name(f"{source.stem}.packed.onnx")
    if path.suffix != ".onnx":
        raise ConfigError(f"--out {path} must end in .onnx")
    if path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(f"{path} is the source itself; name another file with --out")
    return path


def _read(source: Path) -> ModelProto:
    model = read_model(source)
    if any(f.domain == DOMAIN for f in model.functions):
        raise ModelFileError(
            f"{source} is packed already; `fggp-deploy export` has --compact, --values and --flat"
        )
    return model


def _compacted(
    source: Path, dense: ModelProto, options: PackOptions
) -> tuple[ModelProto, Compacted]:
    session = SessionConfig(1).open(source, name=source.name)
    inputs, outputs, why = first_that_runs(session, options.shape)
    if outputs is None:
        raise ModelFileError(
            f"{source} cannot be run, so its compaction cannot be checked: {why}; give --shape, "
            "or omit --compact"
        )
    return compacted(dense, feeds(0, inputs))


def _why_nothing(packing: Packing) -> str:
    reasons = Counter(packing.left_dense.values()).most_common(1)
    if not reasons:
        return "no weight of two or more dimensions is in its main graph"
    return f"{reasons[0][1]} of {len(packing.left_dense)} weights: {reasons[0][0]}"


def _check_weights(dense: ModelProto, packing: Packing, values: ValueType) -> int:
    """Raise ModelFileError unless every weight decodes to itself, rounded; how many are packed."""
    before = initializers(lift_weights(dense).graph)
    packed = split(packing.model).weights
    for name, weight in packed.items():
        want = numpy_helper.to_array(before[name])
        asked = np.float32 if name in packing.left_fp32 else values
        if not _rounds_to(weight.decode(), want, asked):
            raise ModelFileError(f"weight {name!r} does not decode to its own values; report this")
    return len(packed)


def _rounds_to(got: Array, want: Array, values: ValueType) -> bool:
    """Whether a decoded weight is what `want` becomes as `values`; either may be transposed."""
    if want.dtype == np.int8:
        rounded = [want]
    elif values is np.int8:
        rounded = [rounded_to_int8(want, output_axis=axis) for axis in (0, 1)]
    else:
        rounded = [want.astype(values).astype(np.float32)]
    floats = got.dtype.kind == "f"
    return any(np.array_equal(got, w, equal_nan=floats) for r in rounded for w in (r, r.T))


def _refuse_without_proof(source: Path, opset: int, parity: Parity, options: PackOptions) -> None:
    """Raise ModelFileError if a network that cannot run was changed beyond its storage."""
    if options.compact:
        raise ModelFileError(
            f"{source}: {parity.why_not}, so its compaction cannot be checked; omit --compact"
        )
    if opset < MIN_OPSET:
        raise ModelFileError(
            f"{source} was raised from opset {opset} to {MIN_OPSET} and cannot be run to prove "
            f"that it is the same network ({parity.why_not}); give --shape, or export it again "
            f"with opset {MIN_OPSET}"
        )


def _write(path: Path, packed: ModelProto, properties: dict[str, str]) -> None:
    out = ModelProto()
    out.CopyFrom(packed)
    onnx.helper.set_model_props(out, properties)
    write_atomic(path, out.SerializeToString(deterministic=True))
    if f"{PREFIX}format_version" in properties:
        SparseModel.open(path)  # raises if the metadata do not fit the graph


def _notes(dense: ModelProto, packing: Packing, listed: list[str]) -> tuple[str, ...]:
    arrays = ((t.name, numpy_helper.to_array(t)) for t in dense.graph.initializer)
    notes = [
        f"{name} holds NaN or infinity, as in the source"
        for name, a in arrays
        if a.dtype.kind == "f" and not np.isfinite(a).all()
    ]
    notes += [f"left dense: {n}: {why}" for n, why in packing.left_dense.items()]
    notes += [f"left fp32: {n}: {why}" for n, why in packing.left_fp32.items()]
    if listed:
        notes.append(
            f"{len(listed)} initializers are graph inputs in the source, as IR version 3 requires; "
            "in the packed file they are constants only"
        )
    return tuple(notes)
