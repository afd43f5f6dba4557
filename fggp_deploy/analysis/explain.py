"""Why an ONNX file, any, is not smaller or faster: where its zeros are and who uses them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, numpy_helper

from fggp_deploy import runtime
from fggp_deploy.common.timing import Watch
from fggp_deploy.compaction import compact
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format import outputs_test
from fggp_deploy.format.encodings import Packed
from fggp_deploy.format.encodings.blocks import choose_blocks
from fggp_deploy.format.functions import MIN_OPSET
from fggp_deploy.format.operators import REPLACEABLE, Packing, pack, unpack
from fggp_deploy.format.packing import ENCODINGS, choose, to_rice
from fggp_deploy.format.unpacking import layer_name, split
from fggp_deploy.graph.constants import overridable
from fggp_deploy.graph.opset import with_opset
from fggp_deploy.graph.qdq import remove_activation_quantization_
from fggp_deploy.graph.reading import read_bytes, reading
from fggp_deploy.graph.shapes import fix_open_sides_, infer_shapes, one_image
from fggp_deploy.graph.weights import layer_weights
from fggp_deploy.measure import latency
from fggp_deploy.measure.network import SESSION_CONFIG
from fggp_deploy.runtime.probing import first_run_apart, first_that_runs, open_sides
from fggp_deploy.runtime.sessions import Options

WORTH = 0.05  # a smaller share of zeros saves nothing
_KINDS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Weight:
    """One weight tensor: what it holds, what it costs here, what it would cost packed.

    `of_layer`: a convolution, linear or recurrent layer multiplies it; other constants, such as
    anchors, count as no weights. `dead_channels` counts output channels that are zero throughout.
    `macs` are dense ones for one image, None where shapes are not known. `why` says in words what
    its zeros gain or do not.
    """

    name: str
    op: str
    of_layer: bool
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    stored_bytes: int
    packed_bytes: int
    dead_channels: int
    macs: int | None
    why: str


@dataclass(frozen=True)
class Speed:
    """Median latency on stock onnxruntime and, if they run it, on the kernels; a batch of one.

    `inputs` are names and sizes of what it was run on. `plan` is what `runtime.explain` says of the
    kernels. `ratio` is stock over kernels with its 95% interval; None if the kernels do not run.
    `too_busy`: other programs held up so many rounds that these figures mean little.
    """

    threads: int
    inputs: tuple[str, ...]
    plan: str
    stock_ms: float
    kernels_ms: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    too_busy: bool = False


@dataclass(frozen=True)
class Compact:
    """What is left without dead channels: by `--compact`, done in memory.

    `n_channels` are gone. `macs_left`: of the dense multiply-accumulates, None where shapes are not
    known. `packed_bytes`: the packed file.
    """

    n_channels: int
    macs_left: float | None
    packed_bytes: int


@dataclass(frozen=True)
class Explanation:
    """All weights, exact sizes, and the speed, or in `not_measured` why there is none.

    `packed`: some weights are stored packed. `packed_bytes` is the size of the file that `pack`
    makes, by making it, `int8_bytes` that with int8 values, and `compaction` what leaving dead
    channels out gives, None where none can leave. `in_bytes`: activations are rounded to bytes.
    `macs_left` is the share of multiply-accumulates that meet a non-zero: its inverse is an
    estimate of the gain that no kernel exceeds by skipping zeros alone. `sparsity` is over the
    weights of layers. `cannot_pack` says why `pack` would refuse the file, if it would.
    """

    model: str
    packed: bool
    file_bytes: int
    dense_bytes: int
    packed_bytes: int
    int8_bytes: int
    compaction: Compact | None
    in_bytes: bool
    sparsity: float
    macs_left: float | None
    weights: tuple[Weight, ...]
    speed: Speed | None
    not_measured: str
    cannot_pack: str


def explain(
    path: Path, *, threads: int = 1, seconds: float = 3.0, shape: Sequence[int] = ()
) -> Explanation:
    """Explain any ONNX file; `seconds` 0 measures nothing.

    `shape` gives what the first input leaves open after its first dimension.

    Raises ModelFileError for what is no ONNX file or breaks the packed format.
    """
    content = read_bytes(path)
    with reading(path.name):
        model = ModelProto.FromString(content)
        parts = split(model)
        dense = unpack(model)
        packed_bytes, int8_bytes, cannot_pack = _packed_sizes(dense)
        calm = ModelProto.FromString(dense.SerializeToString())
        in_bytes = remove_activation_quantization_(calm)  # compaction comes before rounding
        smaller = _compacted(calm)
        single = one_image(dense)
        fix_open_sides_(single, dict(enumerate(shape, start=1)))
        shapes = infer_shapes(single)
        weights = _weights(dense, shapes, {n: w.stored_bytes for n, w in parts.weights.items()})
    counted = [w for w in weights if w.of_layer]
    total = sum(math.prod(w.shape) for w in counted)
    zeros = sum(w.sparsity * math.prod(w.shape) for w in counted)
    macs = [(w.macs, w.sparsity) for w in weights if w.macs]
    left = sum(m * (1 - s) for m, s in macs) / sum(m for m, _ in macs) if macs else None
    speed, why = None, "--seconds is 0"
    if seconds > 0:
        try:
            speed, why = _speed(path.name, content, threads, seconds, shape), ""
        except ModelFileError as e:
            why = str(e)
    return Explanation(
        model=path.name,
        packed=bool(parts.weights),
        file_bytes=len(content),
        dense_bytes=dense.ByteSize(),
        packed_bytes=packed_bytes,
        int8_bytes=int8_bytes,
        compaction=smaller,
        in_bytes=in_bytes,
        sparsity=zeros / total if total else 0.0,
        macs_left=left,
        weights=weights,
        speed=speed,
        not_measured=why,
        cannot_pack=cannot_pack,
    )


def _packed_sizes(dense: ModelProto) -> tuple[int, int, str]:
    """Bytes of the packed file, and with int8 values; and why it cannot be packed, if it cannot."""
    size = dense.ByteSize()
    try:
        current = with_opset(dense, MIN_OPSET)
    except ModelFileError as e:
        return size, size, str(e)
    exact = min(pack(current).ByteSize(), size)
    return exact, min(Packing.of(current, values=np.int8).model.ByteSize(), exact), ""


def _compacted(dense: ModelProto) -> Compact | None:
    done = compact(dense)
    if not done.n_removed:
        return None
    before, after = done.macs
    left = after / before if before and after is not None else None
    return Compact(done.n_removed, left, _packed_sizes(done.model)[0])


def _weights(
    dense: ModelProto, shapes: dict[str, tuple[int | None, ...]], packed: dict[str, int]
) -> tuple[Weight, ...]:
    transposed = {n.output[0]: n.input[0] for n in dense.graph.node if n.op_type == "Transpose"}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in dense.graph.node:
        for name in node.input:
            readers.setdefault(transposed.get(name, name), []).append(node)
    constants = {t.name: t for t in dense.graph.initializer}
    given = overridable(dense.graph)
    layers = layer_weights(dense.graph, constants)
    found = []
    for name in readers:  # in the graph's order
        if name not in constants:
            continue
        w = numpy_helper.to_array(constants[name])
        users = [n for n in readers[name] if n.op_type != "Transpose"]
        if w.ndim < 2 or not w.size or not users or w.dtype.kind not in "fiu":
            continue
        stored = packed.get(name, w.nbytes)
        sparsity = float(1 - np.count_nonzero(w) / w.size)
        op = users[0].op_type
        found.append(
            Weight(
                name=layer_name(name),
                op=op,
                of_layer=name in layers,
                shape=w.shape,
                dtype=str(w.dtype),
                sparsity=sparsity,
                stored_bytes=stored,
                packed_bytes=stored if name in given else _packed_bytes(w, stored),
                dead_channels=int((~w.reshape(len(w), -1).any(axis=1)).sum()),
                macs=_macs(users, shapes, w.shape),
                why=REPLACEABLE
                if name in given
                else _why(op, w.dtype, sparsity, packed=name in packed),
            )
        )
    return tuple(found)


def _packed_bytes(w: np.ndarray, stored: int) -> int:
    """Bytes of the smallest form of a weight that takes `stored` today."""
    small: Packed | None = None
    if w.dtype == np.float32:
        small = choose(w, encodings=ENCODINGS)
    elif w.dtype == np.int8:
        small = to_rice(w)
    least = min(stored, small.stored_bytes if small else stored)
    blocks = choose_blocks(w, below=least) if w.dtype == np.float32 else None
    return blocks.stored_bytes if blocks else least


def _macs(
    users: list[onnx.NodeProto], shapes: dict[str, tuple[int | None, ...]], shape: tuple[int, ...]
) -> int | None:
    total = 0
    for node in users:
        out = shapes.get(node.output[0])
        if node.op_type not in _KINDS or out is None or None in out or not out:
            return None
        sides = [side for side in out if side is not None]
        # each output element is one dot product over all but the output axis of the weight
        outputs = sides[1] if node.op_type == "Conv" and len(sides) > 1 else sides[-1]
        total += math.prod(sides) * math.prod(shape) // max(1, outputs)
    return total


def _why(op: str, dtype: np.dtype, sparsity: float, *, packed: bool) -> str:
    if sparsity < WORTH:
        return "dense: it has no zeros to save on"
    if dtype == np.int8:
        how = "are packed" if packed else "can be packed"
        return f"its zeros {how} for size; there is no sparse kernel for int8"
    if dtype != np.float32:
        return f"its zeros are stored and multiplied; only float32 and int8 are packed, not {dtype}"
    if op not in _KINDS:
        return f"its zeros can be packed for size; there is no sparse kernel for {op}"
    if packed:
        return "packed for size; stock onnxruntime decodes it at load and multiplies the zeros"
    return "its zeros are stored as numbers and multiplied by stock onnxruntime"


def _speed(name: str, content: bytes, threads: int, seconds: float, shape: Sequence[int]) -> Speed:
    """Time stock and kernels interleaved; raises ModelFileError if the network cannot be run."""
    options = Options(threads, SESSION_CONFIG)
    first_run_apart(content, shape, name=name)
    stock = options.open(content, name=name)
    if why := open_sides(stock, shape):
        raise ModelFileError(why)
    inputs, answers, why = first_that_runs(stock, shape)
    if answers is None:
        raise ModelFileError(why)
    feeds = outputs_test.feeds(0, inputs)

    def opened() -> ort.InferenceSession:
        return runtime.session(content, threads=threads, shape=shape, config=SESSION_CONFIG)

    def plain() -> latency.Run:
        return partial(options.open(content, name=name).run, None, feeds)

    def sparse() -> latency.Run:
        return partial(opened().run, None, feeds)

    fast = opened()
    contenders = {"stock": plain}
    if runtime.uses_kernels(fast):
        contenders["kernels"] = sparse
    rng = np.random.default_rng(0)
    watch = Watch()
    samples = latency.measure(contenders, seconds=seconds, rng=rng, watch=watch)
    found = Speed(
        threads=threads,
        inputs=tuple(map(str, inputs)),
        plan=runtime.explain(fast),
        stock_ms=latency.timing(samples["stock"]).median_ms,
        too_busy=watch.too_busy,
    )
    if "kernels" not in samples:
        return found
    ratio = latency.speedup(samples["stock"], samples["kernels"], rng)
    return replace(
        found,
        kernels_ms=latency.timing(samples["kernels"]).median_ms,
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
    )
