"""A new encoding is one class and one registration; all else derives from the class."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import Builder
from onnx import NodeProto, helper, numpy_helper

from fggp_deploy import runtime
from fggp_deploy.errors import ModelFileError
from fggp_deploy.exporters.pack import pack_file
from fggp_deploy.format.encodings import ENCODINGS
from fggp_deploy.format.encodings.base import Operators, PackedEncoding
from fggp_deploy.format.encodings.checks import Array, check_bits, check_values, checked_size
from fggp_deploy.format.encodings.nodes import constant, shape_and_size
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.packing import flatten, pack
from fggp_deploy.format.unpacking import split, unpack
from fggp_deploy.kernels import program


@dataclass(frozen=True)
class OneValue(PackedEncoding):
    """A weight whose non-zeros are all equal: that value, and a bit per element."""

    values: Array
    bits: Array
    shape: tuple[int, ...]

    name: ClassVar[str] = "one-value"
    parts: ClassVar[tuple[str, ...]] = ("values", "bits")
    operators: ClassVar[Operators] = Operators("Unshare", "SharedConv", "SharedGemm")

    def __post_init__(self) -> None:
        check_bits("bits", self.bits, checked_size(self.shape))
        check_values(self.values, 1)

    @classmethod
    def encode(cls, w, *, values=np.float32, output_axis=0):
        flat = w.reshape(-1)
        bits = np.packbits(flat != 0, bitorder="little")
        return cls(flat[flat != 0][:1].astype(values), bits, w.shape)

    @classmethod
    def encoded_bytes(cls, w, *, values=np.float32, output_axis=0):
        if len(np.unique(w[w != 0])) != 1:
            return None
        return np.dtype(values).itemsize + -(-w.size // 8)

    def decode(self) -> Array:
        bits = np.unpackbits(self.bits, count=math.prod(self.shape), bitorder="little")
        return np.float32(bits.reshape(self.shape)) * np.float32(self.values)

    @staticmethod
    def decoder_body() -> list[NodeProto]:
        node = helper.make_node
        return [
            *shape_and_size(),
            constant("column", np.array([-1, 1])),
            constant("row", np.array([-1])),
            constant("shifts", np.arange(8, dtype=np.uint8).reshape(1, 8)),
            constant("low_bit", np.array(1, np.uint8)),
            constant("start", np.array([0])),
            node("Reshape", ["bits", "column"], ["bytes"]),
            node("BitShift", ["bytes", "shifts"], ["shifted"], direction="RIGHT"),
            node("BitwiseAnd", ["shifted", "low_bit"], ["by_byte"]),
            node("Reshape", ["by_byte", "row"], ["padded"]),
            node("Slice", ["padded", "start", "size"], ["ones"]),
            node("Cast", ["ones"], ["kept"], to=onnx.TensorProto.FLOAT),
            node("Cast", ["values"], ["floats"], to=onnx.TensorProto.FLOAT),
            node("Reshape", ["kept", "shape"], ["mask"]),
            node("Mul", ["mask", "floats"], ["W"]),
        ]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    ENCODINGS.append(OneValue)
    yield
    ENCODINGS.remove(OneValue)


def network() -> onnx.ModelProto:
    """Halves in a convolution, a deconvolution and a MatMul; other values in one more layer."""
    b = Builder()

    def halves(*shape: int) -> str:
        return b.tensor(np.float32(0.5 * (b.rng.random(shape) < 0.3)))

    x = b.op("Conv", "x", halves(32, 3, 3, 3), pads=[1] * 4)
    x = b.op("Relu", b.op("ConvTranspose", x, halves(32, 16, 3, 3)))
    x = b.op("Flatten", b.op("GlobalAveragePool", b.conv(x, 32, 16)))
    return b.model(b.op("MatMul", x, halves(32, 50)))


X = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)


def run(model: onnx.ModelProto) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    content = model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


def test_a_runtime_inlines_it_and_computes_the_same():
    model = network()
    packed = pack(model)
    ops = [n.op_type for n in packed.graph.node if n.domain]
    assert ops == ["Unshare", "SharedConv", "SparseConv", "SharedGemm"]
    onnx.checker.check_model(packed, full_check=True)
    assert run(packed).tobytes() == run(model).tobytes()
    assert run(flatten(packed)).tobytes() == run(model).tobytes()


@pytest.mark.parametrize("form", [pack, lambda m: flatten(pack(m))], ids=["functions", "flat"])
def test_it_is_read_back(form):
    model = network()
    packed = form(model)
    names = [w.name for w in split(packed).weights.values()]
    assert sorted(names) == ["gaps8", "one-value", "one-value", "one-value"]
    again = {t.name: numpy_helper.to_array(t) for t in unpack(packed).graph.initializer}
    for t in model.graph.initializer:
        w = numpy_helper.to_array(t)
        assert np.array_equal(again[t.name], w) or np.array_equal(again[t.name], w.T)


def test_a_damaged_part_is_refused():
    packed = pack(network())
    (bits,) = [t for t in packed.graph.initializer if t.name == "t0.bits"]
    bits.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bits)[:-1], bits.name))
    with pytest.raises(ModelFileError, match="'t0': bits must be uint8"):
        unpack(packed)


def test_commands_and_sessions_take_it(tmp_path: Path):
    onnx.save(network(), tmp_path / "m.onnx")
    made = pack_file(tmp_path / "m.onnx")
    assert made.bit_equal
    assert made.n_packed == 4
    layers = SparseModel.open(made.path).layers
    assert sorted(x.encoding for x in layers) == ["gaps8", "one-value", "one-value", "one-value"]
    session = runtime.session(made.path, threads=1, measure=False, cache=False)
    want = run(network())
    assert np.abs(session.run(None, {"x": X})[0] - want).max() <= 1e-5 * np.abs(want).max()


def test_the_kernels_know_every_number_of_a_format():
    formats = [e.kernel_format for e in ENCODINGS if e.kernel_format is not None]
    assert sorted(formats) == [program.GAPS, program.RICE]
