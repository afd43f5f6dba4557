"""Packing an ONNX file that somebody else made: the same network, its zeros no longer stored."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
from onnx import ModelProto, numpy_helper

from fggp_deploy import kernels
from fggp_deploy.artifacts import outputs_test
from fggp_deploy.artifacts.metadata import PREFIX, Metadata
from fggp_deploy.artifacts.outputs_test import Array, Input, OutputsTest
from fggp_deploy.artifacts.provenance import Provenance
from fggp_deploy.artifacts.selftest import SelfTest
from fggp_deploy.artifacts.sparse_model import SparseModel
from fggp_deploy.data import Preprocessing
from fggp_deploy.errors import ConfigError, ModelFileError, UnknownName
from fggp_deploy.files import sha256_file, write_atomic
from fggp_deploy.onnx_functions import DOMAIN, MIN_OPSET
from fggp_deploy.onnx_lifting import lift_weights
from fggp_deploy.onnx_ops import Packing, ValueType, standard_opset, unpack
from fggp_deploy.onnx_reading import read_model, reading
from fggp_deploy.packing import to_int8
from fggp_deploy.runtime.sessions import Options, brief

from .compacting import Compacted, compacted
from .onnx import VALUES

TOLERANCE = 1e-4  # of the largest output
LEAST_OUTPUT = 1e-2  # a sigmoid that gives 1e-7 everywhere is right to 1e-7, no better
PACKED = f"{PREFIX}packed"  # metadata: what a file was packed from
# What open sides of an input are tried with, so that the network can be run at all.
SIDES = (64, 224, 512, 16)
_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16",
    "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class PackedFile:
    """What `pack_file` wrote.

    `n_weights`, `n_zeros` count elements of the `n_packed` tensors that were packed. `ran` says on
    which inputs the file was run against its source, empty where it could not be: `why_not` says
    why, and the weights alone were compared, all of them. `bit_equal` and `error`, over the largest
    output, are of stock onnxruntime, `kernels_error` of the kernels, None where there are none.
    Where values were rounded these are against the rounded network, and `rounding_error` is what
    the rounding changed on these inputs, over the largest output.
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
    rounding_error: float | None
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
    """Pack any ONNX file in one piece to `out` (`NAME.packed.onnx`), and check what was packed.

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
    with reading(str(source)):
        dense = _raised(unpack(model), source)
        about = None
        if compact:
            dense, about = _compacted(source, dense, shape)
        packing = Packing.of(dense, values=VALUES[values])
        packed = [n for n in packing.model.graph.node if n.domain == DOMAIN]
        if not packed and not (about and about.n_removed):
            reasons = Counter(packing.left_dense.values()).most_common(1)
            why = "no weight of two or more dimensions stands in its main graph"
            if reasons:
                why = f"{reasons[0][1]} of {len(packing.left_dense)} weights: {reasons[0][0]}"
            raise ModelFileError(f"{source} has nothing to pack; {why}")
        counts = _check_weights(dense, packing, VALUES[values])
    proof = _run_both(source, packing.model, shape, rounded=values != "fp32")
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
    notes = [f"left dense: {n}: {why}" for n, why in packing.left_dense.items()]
    notes += [f"left fp32: {n}: {why}" for n, why in packing.left_fp32.items()]
    return PackedFile(
        path=path,
        source=source,
        file_bytes=path.stat().st_size,
        source_bytes=source.stat().st_size,
        sha256=sha256_file(path),
        values=values,
        n_packed=counts[0],
        n_weights=counts[1],
        n_zeros=counts[2],
        opset=standard_opset(packing.model),
        source_opset=source_opset,
        ran=proof.ran,
        why_not=proof.why_not,
        bit_equal=proof.bit_equal,
        error=proof.error,
        kernels_error=proof.kernels_error,
        rounding_error=proof.rounding_error,
        preprocessing=known is not None,
        notes=tuple(notes),
        compaction=about,
    )


def _compacted(
    source: Path, dense: ModelProto, shape: Sequence[int] | None
) -> tuple[ModelProto, Compacted]:
    inputs, answers, why = _first_that_runs(Options(1).open(source, name=source.name), shape)
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


def _raised(dense: ModelProto, source: Path) -> ModelProto:
    """The model at the opset of our functions; raises ModelFileError where it cannot be."""
    opset = standard_opset(dense)
    if opset >= MIN_OPSET:
        return dense
    try:
        return onnx.version_converter.convert_version(dense, MIN_OPSET)
    except Exception as e:  # the converter's exceptions have no common base
        raise ModelFileError(
            f"{source} cannot be raised from opset {opset} to {MIN_OPSET} ({brief(e)}); export it "
            f"again with opset {MIN_OPSET}"
        ) from e


def _check_weights(dense: ModelProto, packing: Packing, values: ValueType) -> tuple[int, int, int]:
    """Every weight decodes to itself, rounded; counts of packed tensors, elements and zeros."""
    before = {t.name: t for t in lift_weights(dense).graph.initializer}
    n_packed = n_weights = n_zeros = 0
    parts = {t.name for t in packing.model.graph.initializer}
    for tensor in unpack(packing.model).graph.initializer:
        if f"{tensor.name}.values" not in parts:
            continue
        got, want = numpy_helper.to_array(tensor), numpy_helper.to_array(before[tensor.name])
        if not _rounds_to(got, want, np.float32 if tensor.name in packing.left_fp32 else values):
            raise ModelFileError(f"weight {tensor.name!r} does not decode to itself; report this")
        n_packed += 1
        n_weights += got.size
        n_zeros += int((got == 0).sum())
    return n_packed, n_weights, n_zeros


def _rounds_to(got: Array, want: Array, values: ValueType) -> bool:
    """Whether a decoded weight is what `want` becomes as `values`; either may be transposed."""
    if want.dtype == np.int8:
        rounded = [want]
    elif values is np.int8:
        rounded = [to_int8(want, axis).decode() for axis in (0, 1)]
    else:
        rounded = [want.astype(values).astype(np.float32)]
    return any(np.array_equal(got, w) or np.array_equal(got, w.T) for w in rounded)


@dataclass(frozen=True)
class _Proof:
    """What running source and packed model side by side gave; `test` None where they do not run."""

    inputs: tuple[Input, ...] = ()
    test: OutputsTest | None = None
    outputs: Mapping[str, Array] | None = None
    why_not: str = ""
    bit_equal: bool | None = None
    error: float | None = None
    kernels_error: float | None = None
    rounding_error: float | None = None

    @property
    def ran(self) -> tuple[str, ...]:
        """Names and shapes of the inputs."""
        if self.test is None:
            return ()
        return tuple(f"{i.name} {'×'.join(map(str, i.shape))}" for i in self.inputs)


def _run_both(
    source: Path, packed: ModelProto, shape: Sequence[int] | None, *, rounded: bool
) -> _Proof:
    """Run source and packed model on the probe; raises ModelFileError where they disagree."""
    options = Options(1)
    given = options.open(source, name=source.name)
    serialized: bytes = packed.SerializeToString()
    stock = options.open(serialized, name=f"the packed {source.name}")
    inputs, want, why = _first_that_runs(given, shape)
    if want is None:
        return _Proof(why_not=why)
    feeds = outputs_test.feeds(0, inputs)
    again = _answers(given, feeds)
    if any(not np.array_equal(a, again[n], equal_nan=a.dtype.kind == "f") for n, a in want.items()):
        return _Proof(inputs, why_not="it answers the same inputs differently each time")
    rounding = None
    if rounded:  # the packed network is another one: hold it against itself, unpacked
        model = unpack(packed).SerializeToString()
        exact, want = want, _answers(options.open(model, name="the rounded network"), feeds)
        rounding = _difference(want, exact)
    try:
        test = OutputsTest.record(inputs, lambda _: want)
    except ModelFileError as e:
        return _Proof(inputs, why_not=f"no self-test can be made: {e}")
    got = _answers(stock, feeds)
    error = _difference(got, want)
    on_kernels = None
    if kernels.library_path() is not None:
        fast = options.open(serialized, name=f"the packed {source.name}", on_kernels=True)
        on_kernels = _difference(_answers(fast, feeds), want)
    for where, found in (("stock onnxruntime", error), ("the kernels", on_kernels)):
        if found is not None and not found <= TOLERANCE:
            raise ModelFileError(
                f"{source} gives other outputs when packed, {found:.1e} of the largest on {where}; "
                "nothing was written"
            )
    equal = all(np.array_equal(a, got[n], equal_nan=a.dtype.kind == "f") for n, a in want.items())
    return _Proof(inputs, test, want, "", equal, error, on_kernels, rounding)


def _first_that_runs(
    session: ort.InferenceSession, shape: Sequence[int] | None
) -> tuple[tuple[Input, ...], dict[str, Array] | None, str]:
    """Inputs that the network takes with its answers, or why there are none."""
    why = ""
    for side in SIDES:
        try:
            inputs = _inputs(session, shape, side)
            if sum(math.prod(i.shape) for i in inputs) > outputs_test.MAX_ELEMENTS:
                return (), None, "its inputs are too large"
            return inputs, _answers(session, outputs_test.feeds(0, inputs)), ""
        except ModelFileError as e:
            why = why or str(e)
        if all(isinstance(d, int) for i in session.get_inputs() for d in i.shape[1:]):
            break
    return (), None, why


def _inputs(
    session: ort.InferenceSession, shape: Sequence[int] | None, side: int
) -> tuple[Input, ...]:
    found = []
    for k, value in enumerate(session.get_inputs()):
        if value.type not in _DTYPES:
            raise ModelFileError(f"its input {value.name!r} is {value.type}")
        given = dict(enumerate(shape or (), start=1)) if k == 0 else {}
        sides = []
        for axis, d in enumerate(value.shape):
            default = 1 if axis == 0 else side
            sides.append(d if isinstance(d, int) and d > 0 else given.get(axis, default))
        found.append(Input(value.name, _DTYPES[value.type], tuple(sides)))
    return tuple(found)


def _answers(session: ort.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs that are tensors of numbers, by name."""
    names = [o.name for o in session.get_outputs()]
    try:
        answers = session.run(names, dict(feeds))
    except Exception as e:  # onnxruntime's exceptions have no common base
        raise ModelFileError(f"it does not run on made-up inputs: {brief(e)}") from e
    found = {n: y for n, y in zip(names, answers, strict=True) if isinstance(y, np.ndarray)}
    return {n: y for n, y in found.items() if y.dtype.kind in "fiub"}


def _difference(got: Mapping[str, Array], want: Mapping[str, Array]) -> float:
    """The largest difference of a float output over its largest value; NaN for other shapes.

    An output that is smaller than LEAST_OUTPUT throughout is held against that.
    """
    worst = 0.0
    for name, w in want.items():
        if w.dtype.kind != "f" or not w.size:
            continue
        g = got.get(name)
        if g is None or g.shape != w.shape:
            return math.nan
        largest = max(float(np.abs(w).max()), LEAST_OUTPUT)
        worst = max(worst, float(np.abs(g.astype(np.float64) - w).max()) / largest)
    return worst


def _metadata(
    model: ModelProto,
    proof: _Proof,
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
    proof: _Proof,
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


def check_outputs(path: Path) -> dict[str, bool]:
    """Whether a packed file passes its own self-test, on stock onnxruntime and on the kernels.

    Raises ModelFileError for a file that has none.
    """
    model = read_model(path)
    test = next((p.value for p in model.metadata_props if p.key == outputs_test.KEY), None)
    if test is None:
        raise ModelFileError(f"{path} has no self-test of its outputs")
    read = OutputsTest.parse(test)
    passed = {}
    for where in ("stock", "kernels") if kernels.library_path() else ("stock",):
        session = Options(1).open(path, name=path.name, on_kernels=where == "kernels")
        passed[where] = read.passes(_answers(session, read.feeds()))
    return passed
