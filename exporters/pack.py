"""Packing an ONNX file that somebody else made: the same network, its zeros no longer stored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.common.files import sha256_file, write_atomic
from fggp_deploy.data import Preprocessing
from fggp_deploy.errors import ConfigError, ModelFileError, UnknownName
from fggp_deploy.format import outputs_test
from fggp_deploy.format.choice import rounded_to_int8
from fggp_deploy.format.encodings.base import ValueType
from fggp_deploy.format.functions import DOMAIN, MIN_OPSET
from fggp_deploy.format.metadata import PREFIX, Metadata
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.outputs_test import Array
from fggp_deploy.format.packing import Packing
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.format.unpacking import split, unpack
from fggp_deploy.graph.constants import unlist_initializers_
from fggp_deploy.graph.lifting import lift_weights
from fggp_deploy.graph.opset import standard_opset, with_opset
from fggp_deploy.graph.reading import read_model, reading, stored_bytes
from fggp_deploy.graph.weights import count_weights
from fggp_deploy.runtime.probing import first_run_apart, first_that_runs
from fggp_deploy.runtime.sessions import Options

from . import VALUES
from .compaction import Compacted, compacted
from .onnx import TYPES
from .proof import Proof, check_converted, run_both
from .rounding import Rounding

PACKED = f"{PREFIX}packed"  # metadata: what a file was packed from


@dataclass(frozen=True)
class PackedFile:
    """What `pack_file` wrote.

    `n_packed` tensors were packed. `n_weights` and `n_zeros` count the weights of all convolution,
    linear and recurrent layers, packed or not, and no other constants. `ran` says on
    which inputs the file was run against its source, empty where it could not be: `why_not` says
    why, and the weights alone were compared, all of them. `bit_equal` and `error`, over the largest
    output, are of stock onnxruntime, `kernels_error` of the kernels, None where there are none.
    Where values were rounded these are against the rounded network, and `rounding` is what
    rounding changed.
    `preprocessing` says whether the file knows how its images are prepared. `notes` are lines for
    the user, such as the weights that were left dense.
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


def pack_file(
    source: Path,
    out: Path | None = None,
    *,
    values: str = "fp32",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
    compact: bool = False,
) -> PackedFile:
    """Pack any ONNX file to `out` (`NAME.packed.onnx`), and check what was packed.

    `mean` and `std`, one for each channel, say how a classifier of images wants its pixels: with
    them the file is one that `verify` takes. Nothing is assumed where they are not given. `classes`
    names its classes, by default by their numbers. `shape` gives what the first input leaves open
    after its first dimension. `compact` removes dead channels, where the
    network can be run. Raises ModelFileError for a source that cannot be read, holds nothing
    to pack, or whose packed form is not proved to be the same network; ConfigError for options.
    """
    began = datetime.now(UTC)
    path = _check_options(source, out, values, mean, std, classes, shape)
    model = _read(source)
    source_opset = standard_opset(model)
    listed = unlist_initializers_(model)
    with reading(str(source)):
        dense = with_opset(unpack(model), MIN_OPSET, name=str(source))
        first_run_apart(source, shape, name=source.name)
        converted = dense if source_opset < MIN_OPSET else None
        about = None
        if compact:
            dense, about = _compacted(source, dense, shape)
        packing = Packing.of(dense, values=TYPES[values])
        packed = [n for n in packing.model.graph.node if n.domain == DOMAIN]
        if not packed and not (about and about.n_removed):
            reasons = Counter(packing.left_dense.values()).most_common(1)
            why = "no weight of two or more dimensions stands in its main graph"
            if reasons:
                why = f"{reasons[0][1]} of {len(packing.left_dense)} weights: {reasons[0][0]}"
            raise ModelFileError(f"{source} has nothing to pack; {why}")
        n_packed = _check_weights(dense, packing, TYPES[values])
        n_weights, n_zeros = count_weights(unpack(packing.model))
    if converted is not None:
        check_converted(source, source_opset, converted, shape)
    proof = run_both(source, packing.model, shape, values=values)
    if proof.test is None and compact:
        raise ModelFileError(
            f"{source}: {proof.why_not}, so nothing proves its compaction; leave --compact out"
        )
    if proof.test is None and source_opset < MIN_OPSET:
        raise ModelFileError(
            f"{source} was raised from opset {source_opset} to {MIN_OPSET} and cannot be run to "
            f"prove that it is the same network ({proof.why_not}); give --shape, or export it "
            f"again with opset {MIN_OPSET}"
        )
    known = _metadata(model, proof, mean, std, classes)
    setting = {"values": values, "opset": source_opset, "source_sha256": sha256_file(source)}
    provenance = Provenance.of(setting, began).to_dict()
    provenance.pop("command")
    _write(path, packing.model, model, known, proof, provenance)
    notes = [f"{name} holds NaN or infinity, as in the source" for name in _not_finite(dense)]
    notes += [f"left dense: {n}: {why}" for n, why in packing.left_dense.items()]
    notes += [f"left fp32: {n}: {why}" for n, why in packing.left_fp32.items()]
    if listed:
        notes.append(
            f"{len(listed)} initializers are graph inputs in the source, as IR version 3 demands; "
            "in the packed file they are constants only"
        )
    return PackedFile(
        path=path,
        source=source,
        file_bytes=path.stat().st_size,
        source_bytes=stored_bytes(source),
        sha256=sha256_file(path),
        values=values,
        n_packed=n_packed,
        n_weights=n_weights,
        n_zeros=n_zeros,
        opset=standard_opset(packing.model),
        source_opset=source_opset,
        ran=proof.ran,
        why_not=proof.why_not,
        bit_equal=proof.bit_equal,
        error=proof.error,
        kernels_error=proof.kernels_error,
        rounding=proof.rounding,
        preprocessing=known is not None,
        notes=tuple(notes),
        compaction=about,
    )


def _compacted(
    source: Path, dense: ModelProto, shape: Sequence[int] | None
) -> tuple[ModelProto, Compacted]:
    inputs, answers, why = first_that_runs(Options(1).open(source, name=source.name), shape)
    if answers is None:
        raise ModelFileError(
            f"{source} cannot be run, so nothing would prove its compaction: {why}; give --shape, "
            "or leave --compact out"
        )
    return compacted(dense, outputs_test.feeds(0, inputs))


def _check_options(
    source: Path,
    out: Path | None,
    values: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    classes: Sequence[str] | None,
    shape: Sequence[int] | None,
) -> Path:
    if values not in VALUES:
        raise UnknownName("type of values", values, VALUES)
    if (mean is None) != (std is None):
        raise ConfigError("--mean and --std belong together; give both or neither")
    if classes is not None and mean is None:
        raise ConfigError("--classes are kept where --mean and --std are given too")
    if shape is not None and not all(0 < n <= outputs_test.MAX_ELEMENTS for n in shape):
        raise ConfigError(f"--shape must be positive numbers, got {','.join(map(str, shape))}")
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


def _check_weights(dense: ModelProto, packing: Packing, values: ValueType) -> int:
    """Raise ModelFileError unless every weight decodes to itself, rounded; how many are packed."""
    before = {t.name: t for t in lift_weights(dense).graph.initializer}
    packed = split(packing.model).weights
    for name, weight in packed.items():
        want = numpy_helper.to_array(before[name])
        asked = np.float32 if name in packing.left_fp32 else values
        if not _rounds_to(weight.decode(), want, asked):
            raise ModelFileError(f"weight {name!r} does not decode to itself; report this")
    return len(packed)


def _not_finite(model: ModelProto) -> list[str]:
    """Names of the float initializers that hold NaN or infinity."""
    arrays = ((t.name, numpy_helper.to_array(t)) for t in model.graph.initializer)
    return [name for name, a in arrays if a.dtype.kind == "f" and not np.isfinite(a).all()]


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


def _metadata(
    model: ModelProto,
    proof: Proof,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    classes: Sequence[str] | None,
) -> Metadata | None:
    """That of a classifier of images; None where preprocessing is not known."""
    if mean is None or std is None:
        return None
    if any(p.key == f"{PREFIX}format_version" for p in model.metadata_props):
        raise ConfigError("the file says itself how its images are prepared; leave --mean out")
    answers = list((proof.outputs or {}).values())
    if len(proof.inputs) != 1 or len(answers) != 1 or answers[0].ndim != 2:
        raise ConfigError(
            "--mean and --std are for a network of one image input and one output "
            f"[batch, classes]{'; ' + proof.why_not if proof.why_not else ''}"
        )
    (image,) = proof.inputs
    if len(image.shape) != 4 or image.dtype != "float32" or len(mean) != image.shape[1]:
        raise ConfigError(
            f"--mean has {len(mean)} entries, but the input {image.name!r} is {image.dtype} "
            f"{list(image.shape)}, where [batch, channels, height, width] is wanted"
        )
    value = next(v for v in model.graph.input if v.name == image.name)
    if not all(d.dim_value > 0 for d in value.type.tensor_type.shape.dim[1:]):
        raise ConfigError(
            "--mean and --std are for images of one size, and the network takes any; fix its size "
            "when it is exported"
        )
    prepare = Preprocessing(image.shape[2], image.shape[3], tuple(mean), tuple(std))
    n = answers[0].shape[1]
    if classes is not None and len(classes) != n:
        raise ConfigError(f"--classes names {len(classes)} classes, the network has {n}")
    return Metadata(prepare, tuple(classes or map(str, range(n))))


def _write(
    path: Path,
    packed: ModelProto,
    source: ModelProto,
    known: Metadata | None,
    proof: Proof,
    provenance: dict[str, Any],
) -> None:
    props = {p.key: p.value for p in source.metadata_props}
    ours = f"{PREFIX}format_version" in props
    if known is not None:
        assert proof.outputs is not None  # _metadata has seen them
        (logits,) = proof.outputs.values()
        test = SelfTest.record(lambda _: logits, known.preprocessing.input_shape, batch=len(logits))
        known = replace(known, selftest=test, provenance={"pack": provenance})
        props |= known.to_props()
    elif not ours and proof.test is not None:
        props[outputs_test.KEY] = json.dumps(proof.test.to_dict())
    if not ours:
        props[PACKED] = json.dumps(provenance, sort_keys=True)
    out = ModelProto()
    out.CopyFrom(packed)
    onnx.helper.set_model_props(out, props)
    write_atomic(path, out.SerializeToString(deterministic=True))
    if known is not None or ours:
        SparseModel.open(path)  # raises where the metadata do not fit the graph
