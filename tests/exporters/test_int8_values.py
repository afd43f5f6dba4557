"""Int8 values with a scale for each output channel: encoding, operators, files, kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from fuzz_files import METADATA, small_network
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fggp_deploy import kernels, runtime
from fggp_deploy.errors import ConfigError, FggpWarning, ModelFileError
from fggp_deploy.exporters import load
from fggp_deploy.exporters.own_network import export_model
from fggp_deploy.exporters.rounding import Rounding, rounding
from fggp_deploy.format.encodings import Rice, RiceInt8
from fggp_deploy.format.functions import DOMAIN, function
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.kernels.program import CONV, RICE, Program, Step, encode
from fggp_deploy.training.rounding import rounded_weights

pytestmark = pytest.mark.usefixtures("shapes_in_process")

X = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)


def sparse(shape: tuple[int, ...], density: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    w = rng.standard_normal(shape).astype(np.float32)
    return w * (rng.random(shape) < density)


def test_a_weight_to_the_byte():
    w = np.float32([[0, 127, 0, 0, 0], [0, 0, 0, 0, -2]])
    r = Rice.encode(w)
    assert r.scales.tolist() == [[1.0], [np.float16(2 / 127)]]
    assert r.values.tolist() == [127, -127]
    # distances 2 and 8: 1 and 7 are 0·2 + 1 and 3·2 + 1
    assert r.high.tolist() == [0b10001]
    assert r.low.tolist() == [[0b11]]
    assert r.decode()[0].tolist() == [0, 127, 0, 0, 0]
    assert r.decode()[1, 4] == pytest.approx(-2, rel=1e-3)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.booleans())
def test_zeros_stay_and_nothing_moves_by_more_than_half_a_step(seed, density, across):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 9, 3))
    w = rng.standard_normal(shape).astype(np.float32) * (rng.random(shape) < density)
    axis = int(across)
    got = Rice.encode(w, output_axis=axis).decode()
    assert got.dtype == np.float32
    assert (got[w == 0] == 0).all()
    others = tuple(i for i in range(3) if i != axis)
    step = np.abs(w).max(axis=others, keepdims=True) / 127
    assert (np.abs(got - w) <= 0.57 * step).all()  # the scale itself is rounded to float16
    whole = rng.integers(-128, 128, shape).astype(np.int8) * (w != 0)
    assert np.array_equal(RiceInt8.encode(whole).decode(), whole)


def test_scales_are_float16_only_where_that_holds_them():
    assert Rice.encode(np.float32([[1], [2]])).scales.dtype == np.float16
    small = Rice.encode(np.float32([[1e-6], [2]]))
    assert small.scales.dtype == np.float32
    assert small.decode() == pytest.approx(np.float32([[1e-6], [2]]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "NaN or infinity, which int8 cannot store"),
        (np.inf, "NaN or infinity, which int8 cannot store"),
        (3e38, r"its largest value, 3e\+38, needs a scale above 1e\+36"),
        (1e-40, "so small that its scale would underflow"),
    ],
)
def test_what_int8_cannot_say_is_refused(value, message):
    w = np.ones((2, 3), np.float32)
    w[1] = value
    if value == 3e38:  # a scale of 2.4e36 would overflow when multiplied by 128
        assert value / 127 > 1e36
    with pytest.raises(ConfigError, match=message):
        Rice.encode(w)


GOOD = Rice.encode(sparse((6, 5, 3, 3), 0.1))
HOSTILE = {
    "values_type": {"values": GOOD.values.astype(np.uint8)},
    "values_short": {"values": GOOD.values[:-1]},
    "values_empty": {"values": GOOD.values[:0]},
    "scale_nan": {"scales": np.full((6, 1, 1, 1), np.nan, np.float32)},
    "scale_inf": {"scales": np.full((6, 1, 1, 1), np.inf, np.float16)},
    "scale_huge": {"scales": np.full((6, 1, 1, 1), 3e38, np.float32)},
    "scale_negative": {"scales": -np.ones((6, 1, 1, 1), np.float32)},
    "scale_zero": {"scales": np.zeros((6, 1, 1, 1), np.float32)},
    "scales_length": {"scales": np.ones((5, 1, 1, 1), np.float32)},
    "scales_rank": {"scales": np.ones(6, np.float32)},
    "scales_type": {"scales": np.ones((6, 1, 1, 1), np.float64)},
    "high_type": {"high": GOOD.high.astype(np.int8)},
    "high_longer": {"high": np.append(GOOD.high, np.uint8(0))},
    "high_more_ends": {"high": np.append(GOOD.high, np.uint8(1))},
    "high_empty": {"high": GOOD.high[:0]},
    "low_rank": {"low": GOOD.low.reshape(-1)},
    "low_too_many": {"low": np.zeros((17, GOOD.low.shape[1]), np.uint8)},
    "low_none": {"low": GOOD.low[:0]},
    "low_length": {"low": GOOD.low[:, :-1]},
    "low_past_end": {"low": GOOD.low | np.uint8(0x80)},
    "past_the_end": {"shape": (2, 5, 3, 3)},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_parts_are_refused(case):
    assert len(GOOD.values) % 8
    with pytest.raises(ModelFileError):
        replace(GOOD, **HOSTILE[case])


def model(r: RiceInt8, opset: int) -> onnx.ModelProto:
    op = r.operators.decoder
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(r.weight_type))
    graph = helper.make_graph(
        [helper.make_node(op, list(r.arrays), ["y"], domain=DOMAIN, weight_shape=r.shape)],
        "g",
        [],
        [helper.make_tensor_value_info("y", kind, r.shape)],
        [numpy_helper.from_array(a, n) for n, a in r.arrays.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(
        graph, opset_imports=imports, functions=[function(op, opset)], ir_version=9
    )


@pytest.mark.parametrize("density", [1, 0.3, 0.02, 0])
@pytest.mark.parametrize("opset", [18, 21])
def test_operators_decode_as_numpy_does(density, opset):
    w = sparse((9, 7, 3), density)
    for r in (Rice.encode(w), RiceInt8.encode((40 * w).astype(np.int8))):
        m = model(r, opset)
        onnx.checker.check_model(m, full_check=True)
        for run in (ort.InferenceSession(m.SerializeToString()), ReferenceEvaluator(m)):
            (got,) = run.run(None, {})
            assert got.dtype == r.decode().dtype
            assert np.array_equal(got, r.decode())


@pytest.fixture(scope="module")
def dense() -> onnx.ModelProto:
    return small_network()


def run(m: Path | bytes, *, registered: bool = False) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if registered:
        options.register_custom_ops_library(str(kernels.library_path()))
    source = m if isinstance(m, bytes) else str(m)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": X})[0]


@pytest.mark.parametrize("flat", [False, True])
def test_an_exported_file(dense, tmp_path, flat):
    full = load("onnx").export(dense, METADATA, tmp_path / "full.onnx")
    notes: list[str] = []
    path = load("onnx").export(
        dense, METADATA, tmp_path / "m.onnx", values="int8", flat=flat, note=notes.append
    )
    (reported,) = notes
    assert reported.startswith("int8 values change the outputs by up to")
    assert "on 16 made-up inputs and the top-1 class of" in reported
    opened = SparseModel.open(path)
    assert {layer.encoding for layer in opened.layers} == {"rice8"}
    whole = {x.name: x for x in SparseModel.open(full).layers if x.encoding != "blocks"}
    stored = sum(x.stored_bytes for x in opened.layers if x.name in whole)
    assert stored < 0.45 * sum(x.stored_bytes for x in whole.values())
    got, exact = run(path), run(full)
    assert np.array_equal(got, run(opened.dense().SerializeToString()))
    test = opened.metadata.selftest
    assert test is not None
    assert opened.metadata.unrounded is not None
    assert 0 < np.abs(got - exact).max() < 0.03 * np.abs(exact).max()
    before = {t.name: numpy_helper.to_array(t) for t in dense.graph.initializer}
    for t in opened.dense().graph.initializer:
        if len(t.dims) > 1:
            assert (numpy_helper.to_array(t)[before[t.name] == 0] == 0).all()


@pytest.mark.parametrize(
    ("part", "damaged", "says"),
    [
        ("scales", lambda a: a * np.float16("nan"), "scales must lie above 0"),
        ("scales", lambda a: a[:-1], "scales must be float32 or float16"),
        ("values", lambda a: a[:-1], "weight 'fc.weight': "),
        ("high", lambda a: a[:-1], "entries but there are"),
        ("low", lambda a: a.astype(np.int8), "low must be uint8"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(dense, tmp_path, part, damaged, says):
    path = load("onnx").export(dense, METADATA, tmp_path / "m.onnx", values="int8")
    broken = onnx.load(path)
    for t in broken.graph.initializer:
        if t.name == f"fc.weight.{part}":
            t.CopyFrom(numpy_helper.from_array(damaged(numpy_helper.to_array(t)), t.name))
    path.write_bytes(broken.SerializeToString())
    with pytest.raises(ModelFileError, match=says) as raised:
        SparseModel.open(path)
    assert "\n" not in str(raised.value)


class NearlyTied(torch.nn.Module):
    """Ten classes whose weights differ by less than a step of int8."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3 * 8 * 8, 10, bias=False)
        rng = torch.Generator().manual_seed(0)
        common = torch.randn(192, generator=rng)
        own = 1e-3 * torch.randn(10, 192, generator=rng)
        self.fc.weight.data = common + own

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


def test_export_model_warns_if_rounding_changes_the_answers(tmp_path):
    notes: list[str] = []
    with pytest.warns(FggpWarning, match=r"top-1 class of \d+ of them; measure the accuracy"):
        export_model(
            NearlyTied(), tmp_path / "m.onnx", preprocessing=METADATA.preprocessing,
            classes=tuple("0123456789"), values="int8", note=notes.append,
        )  # fmt: skip
    assert any("int8 values change the outputs" in line for line in notes)


def test_rounding_by_hand():
    before = [np.float32([[1, 2], [4, 0]])]
    after = [np.float32([[1, 2], [1.9, 2]])]
    found = rounding("int8", lambda _: before, lambda _: after, [{}, {}])
    assert found == Rounding("int8", pytest.approx(2.1 / 4), 4, 2)
    assert found.is_large
    small = rounding("fp16", lambda _: before, lambda _: [before[0] + np.float32(0.01)], [{}])
    assert (small.n_changed, small.is_large) == (0, False)
    maps = rounding("int8", lambda _: [np.ones((1, 2, 3))], lambda _: [np.ones((1, 2, 3))], [{}])
    assert (maps.n, maps.n_changed) == (1, None)
    assert "top-1" not in maps.sentence()


def test_a_weight_that_int8_cannot_say_stays_float(dense, tmp_path):
    large = onnx.ModelProto()
    large.CopyFrom(dense)
    tensor = next(t for t in large.graph.initializer if t.name == "b.weight")
    w = numpy_helper.to_array(tensor).copy()
    w.reshape(-1)[np.flatnonzero(w)[0]] = 3e38
    tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
    notes: list[str] = []
    path = tmp_path / "m.onnx"
    load("onnx").export(
        large, replace(METADATA, selftest=None), path, values="int8", note=notes.append
    )
    assert notes == ["left fp32: b.weight: its largest value, 3e+38, needs a scale above 1e+36"]
    kinds = {layer.name: layer.encoding for layer in SparseModel.open(path).layers}
    assert kinds.pop("b") != "rice8"
    assert set(kinds.values()) == {"rice8"}


def test_the_kernels_take_it(dense, tmp_path):
    if kernels.library_path() is None:
        pytest.skip("no kernel library")
    path = load("onnx").export(dense, METADATA, tmp_path / "m.onnx", values="int8")
    ops = [n.op_type for n in onnx.load(path).graph.node]
    assert {"SparseConv8", "SparseGemm8"} <= set(ops)
    stock = run(path)
    bound = 1e-5 * np.abs(stock).max()
    assert np.abs(run(path, registered=True) - stock).max() <= bound
    fast = runtime.session(path, threads=1, measure=False, cache=False)
    assert runtime.uses_kernels(fast)
    assert np.abs(fast.run(None, {"input": X})[0] - stock).max() <= bound


def test_the_library_decodes_as_numpy_does():
    if kernels.library_path() is None:
        pytest.skip("no kernel library")
    bias, x = np.zeros(6, np.float32), np.random.default_rng(1).random((1, 5, 6, 6), np.float32)
    step = Step(op=CONV, input=0, cout=6, cin=5, kernel=(3, 3), format=RICE)
    for scales in (GOOD.scales, np.full((1, 1, 1, 1), 0.5, np.float32)):
        r = replace(GOOD, scales=scales)
        code = encode([step], n_inputs=1, outputs=[1])
        exact = encode([replace(step, format=1)], n_inputs=1, outputs=[1])
        (got,) = Program(code, [*r.arrays.values(), bias]).run([x], isa="reference")
        (want,) = Program(exact, [r.decode(), bias]).run([x], isa="reference")
        assert got.tobytes() == want.tobytes()


# The library sees counts, not shapes, and reads none of these past its end.
HARMLESS = ("scales_rank", "low_rank", "low_past_end", "low_length", "high_longer")
HOSTILE_THERE = HOSTILE | {"low_cut": {"low": GOOD.low.reshape(-1)[:-1]}}


@pytest.mark.parametrize("case", [c for c in HOSTILE_THERE if c not in HARMLESS])
def test_the_library_refuses_hostile_parts(case):
    if kernels.library_path() is None:
        pytest.skip("no kernel library")
    change = HOSTILE_THERE[case]
    arrays = GOOD.arrays | {k: v for k, v in change.items() if k != "shape"}
    cout = change.get("shape", (6,))[0]
    step = Step(op=CONV, input=0, cout=cout, cin=5, kernel=(3, 3), format=RICE)
    constants = [*arrays.values(), np.zeros(cout, np.float32)]
    with pytest.raises(ModelFileError):
        Program(encode([step], n_inputs=1, outputs=[1]), constants)


def test_training_rounds_as_export_does_and_gives_the_weights_back():
    torch.manual_seed(0)
    w = torch.randn(6, 5, 3, 3)
    w[torch.rand_like(w) > 0.3] = 0
    before = w.clone()
    whole = Rice.encode(w.numpy())
    step = torch.from_numpy(whole.scales.astype(np.float32))
    with rounded_weights([w]):
        assert (w[before == 0] == 0).all()
        numbers = (w / step).round()
        assert torch.equal(numbers, torch.from_numpy(whole.decode()) / step)
        assert torch.allclose(w, numbers * step, rtol=1e-3)
    assert torch.equal(w, before)


def test_gradients_are_those_at_the_rounded_weights():
    w = torch.tensor([[127.0, 10.4]], requires_grad=True)
    with rounded_weights([w]):
        (w**2).sum().backward()
    assert w.grad.tolist() == [[254.0, 20.0]]
    assert w.detach().tolist() == [[127.0, pytest.approx(10.4)]]


def test_packing_twice_is_refused_and_unpacking_undoes_it(dense, tmp_path):
    path = load("onnx").export(dense, METADATA, tmp_path / "m.onnx", values="int8")
    back = unpack(onnx.load(path))
    assert not back.functions
    ops = sorted(n.op_type for n in dense.graph.node)
    assert sorted(n.op_type for n in back.graph.node) == ops
