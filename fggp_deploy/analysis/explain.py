"""Why an ONNX file is not smaller or faster: where its zeros are and what uses them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from fggp_deploy import runtime
from fggp_deploy.analysis.weights import Weight, weights_of
from fggp_deploy.common.timing import Watch
from fggp_deploy.compaction.dead_channels import compact
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format import generated_inputs
from fggp_deploy.format.functions import MIN_OPSET
from fggp_deploy.format.packing import Packing, pack
from fggp_deploy.format.unpacking import split, unpack
from fggp_deploy.graph.opset import with_opset
from fggp_deploy.graph.qdq import remove_activation_quantization_
from fggp_deploy.graph.reading import read_bytes, reading
from fggp_deploy.graph.shapes import fix_open_sides_, infer_shapes, one_image
from fggp_deploy.measure import latency
from fggp_deploy.measure.network import SESSION_CONFIG
from fggp_deploy.runtime.probing import first_run_apart, first_that_runs, open_sides
from fggp_deploy.runtime.sessions import SessionConfig


@dataclass(frozen=True)
class Speed:
    """Median latency at batch 1 on stock ONNX Runtime and, if they run the model, on the kernels.

    `inputs` are names and sizes of the inputs. `plan` is what `runtime.explain` says of the
    kernels. `ratio` is stock over kernels with its 95% interval; None if the kernels do not run.
    `too_busy`: other programs delayed so many rounds that these figures mean little.
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
    """What `--compact` would leave, measured by doing it in memory.

    It removes `n_channels`. `macs_left` is the fraction of dense multiply-accumulates that remain,
    None if shapes are not known. `packed_bytes` is the size of the packed file.
    """

    n_channels: int
    macs_left: float | None
    packed_bytes: int


@dataclass(frozen=True)
class Explanation:
    """All weights, exact sizes, and the speed; `not_measured` says why there is no speed.

    `packed`: some weights are stored packed. `packed_bytes` is the size of the file that `pack`
    makes, `int8_bytes` the same with int8 values; both are measured by packing. `compaction` is
    what removing dead channels gives, None if none can be removed. `in_bytes`: the activations are
    int8. `macs_left` is the fraction of multiply-accumulates with a non-zero weight; no kernel that
    only skips zeros gains more than its inverse. `sparsity` is over the weights of layers.
    `cannot_pack` says why `pack` would refuse the file, if it would.
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
    """Explain any ONNX file; with `seconds` 0 its speed is not measured.

    `shape` gives the dimensions of the first input after the first, if the model leaves them open.
    Raises ModelFileError for a file that is not ONNX or breaks the packed format.
    """
    content = read_bytes(path)
    with reading(path.name):
        model = ModelProto.FromString(content)
        parts = split(model)
        dense = unpack(model)
        packed_bytes, int8_bytes, cannot_pack = _packed_sizes(dense)
        unrounded = ModelProto.FromString(dense.SerializeToString())
        in_bytes = remove_activation_quantization_(unrounded)  # compaction comes before rounding
        smaller = _compacted(unrounded)
        single = one_image(dense)
        fix_open_sides_(single, dict(enumerate(shape, start=1)))
        shapes = infer_shapes(single)
        weights = weights_of(dense, shapes, {n: w.stored_bytes for n, w in parts.weights.items()})
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
    """Bytes of the packed file, the same with int8 values, and why it cannot be packed, or ""."""
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


def _speed(name: str, content: bytes, threads: int, seconds: float, shape: Sequence[int]) -> Speed:
    """Time stock and kernels interleaved; raises ModelFileError if the network cannot be run."""
    options = SessionConfig(threads, SESSION_CONFIG)
    first_run_apart(content, shape, name=name)
    stock = options.open(content, name=name)
    if why := open_sides(stock, shape):
        raise ModelFileError(why)
    inputs, answers, why = first_that_runs(stock, shape)
    if answers is None:
        raise ModelFileError(why)
    feeds = generated_inputs.feeds(0, inputs)

    def opened() -> ort.InferenceSession:
        return runtime.session(content, threads=threads, shape=shape, config=SESSION_CONFIG)

    def plain() -> latency.TimedCall:
        return partial(options.open(content, name=name).run, None, feeds)

    def sparse() -> latency.TimedCall:
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
