"""Int8 activations: where they are quantized, the quantized network, and the kernels."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import NETS, Builder, mobile_net, residual_net
from onnx import ModelProto, numpy_helper

from fggp_deploy import kernels, runtime
from fggp_deploy.checkpoints.run_folder import packed
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.format.encodings import Rice
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.packing import Packing
from fggp_deploy.graph.comparison import BYTES_RTOL
from fggp_deploy.graph.qdq import has_quantized_activations, remove_activation_quantization_
from fggp_deploy.kernels.program import (
    ADD,
    CONV,
    DENSE,
    FLATTEN,
    GLOBAL_AVERAGE,
    MAX_POOL,
    REFERENCE,
    RELU,
    RICE,
    ROUND,
    Program,
    Step,
    clamp,
    encode,
)
from fggp_deploy.quantization.activations import (
    Quantization,
    block_fill,
    calibrate,
    quantizable_activations,
    quantizable_inputs,
    quantize_activations,
)
from fggp_deploy.runtime.dense import read_dense
from fggp_deploy.runtime.regions.programs import build_programs

pytestmark = pytest.mark.usefixtures("shapes_in_process")

X = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
needs_library = pytest.mark.skipif(kernels.library_path() is None, reason="no kernel library")
ISAS = kernels.isas() if kernels.library_path() is not None else []


def one_by_one(x: str, b: Builder, *weights: float) -> str:
    return b.op("Conv", x, b.tensor(np.float32(weights).reshape(1, -1, 1, 1)))


def run(model: ModelProto, x: np.ndarray, *, exactly: bool = False) -> np.ndarray:
    """Stock onnxruntime; `exactly` without its optimizers, which round weights and biases anew."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if exactly:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def test_what_is_rounded() -> None:
    b = Builder()
    first = b.op("Relu", b.conv("x", 8, 3))
    pooled = b.op("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2])
    second = b.op("Relu", b.conv(pooled, 8, 8))
    third = b.op("Relu", b.conv(second, 8, 8, group=8))  # a depthwise one reads `second`
    last = b.op("Relu", b.conv(third, 8, 8))  # nothing multiplies it by channels
    assert quantizable_activations(b.model(last)) == [first, third]


def test_six_is_a_start_from_zero_and_minus_one_is_not() -> None:
    def limits(low: float) -> list[str]:
        b = Builder()
        ends = [b.tensor(np.array(v, np.float32)) for v in (low, 6)]
        x = b.op("Clip", b.conv("x", 8, 3), *ends)
        return quantizable_activations(b.model(b.conv(x, 8, 8)))

    assert len(limits(0)) == 1
    assert limits(-1) == []


def test_a_rounded_network_in_the_head() -> None:
    b = Builder()
    y = one_by_one(b.op("Relu", "x"), b, 1, 10, 100)
    x = np.float32([255, 100.4, -3]).reshape(1, 3, 1, 1)
    model, names = quantize_activations(b.model(y, size=1), [{"x": x}])
    assert names == ["v0"]
    (unit,) = [
        numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("scale")
    ]
    assert unit == pytest.approx(1)
    assert run(model, x, exactly=True).item() == pytest.approx(255 + 10 * 100)
    above = x * 2  # ends where the calibration images ended
    assert run(model, above, exactly=True).item() == pytest.approx(255 + 10 * 201)


def test_a_rare_large_value_does_not_take_the_range() -> None:
    b = Builder()
    y = one_by_one(b.op("Relu", "x"), b, 1, 1, 1)
    x = np.random.default_rng(0).random((64, 3, 16, 16)).astype(np.float32)
    x[0, 0, 0, 0] = 3  # to keep it costs (9 - 1) / 255² / 12 a value, to cut it 4 once

    def end(feeds: list[dict[str, np.ndarray]]) -> float:
        return 255 * calibrate(b.model(y), ["v0"], feeds)["v0"].scale

    assert end([{"x": x}]) > 2.5
    assert end([{"x": x}] + 30 * [{"x": x[1:]}]) < 1.5


def test_an_input_has_a_zero_point_of_its_own() -> None:
    b = Builder()
    y = one_by_one(b.op("Relu", one_by_one("x", b, 1, 1, 0)), b, 1)
    x = np.float32([-51, 204, 100.4]).reshape(1, 3, 1, 1)
    model, names = quantize_activations(b.model(y, size=1), [{"x": x}])
    assert names == ["x", "v1"]
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    whole, back = model.graph.node[:2]
    assert (whole.op_type, back.op_type) == ("QuantizeLinear", "DequantizeLinear")
    assert values[whole.input[1]] == pytest.approx(1)
    assert values[whole.input[2]] == 51
    assert list(whole.input[1:]) == list(back.input[1:])
    assert run(model, x, exactly=True).item() == pytest.approx(-51 + 204, rel=1e-6)
    beyond = np.float32([100.4, -60, 300])
    assert Quantization(scale=1, zero_point=51).round_trip(beyond).tolist() == [100, -51, 204]


def test_an_input_that_others_read_stays_as_it_is() -> None:
    b = Builder()
    both = b.op("Add", b.conv("x", 3, 3), b.op("MaxPool", "x", kernel_shape=[1, 1]))
    assert quantizable_inputs(b.model(both)) == []
    b = Builder()
    assert quantizable_inputs(b.model(b.conv("x", 3, 3))) == ["x"]
    b = Builder()
    assert quantizable_inputs(b.model(b.conv("x", 3, 3, group=3))) == []


def test_nothing_to_round_is_an_error() -> None:
    b = Builder()
    with pytest.raises(ConfigError, match="no convolution reads the output of a Relu"):
        quantize_activations(b.model(b.conv("x", 4, 3)), [{"x": X}])
    b = Builder()
    y = one_by_one(b.op("Relu", "x"), b, 1, 1, 1)
    with pytest.raises(ConfigError, match="every activation is 0"):
        quantize_activations(b.model(y), [{"x": -np.abs(X)}])


def test_how_full_blocks_are() -> None:
    b = Builder()
    w = np.zeros((2, 8, 1, 1), np.float32)
    w[0, :4] = 1  # one full block
    w[1, 5] = 1  # one of four
    y = b.op("Conv", b.op("Relu", b.conv("x", 8, 3)), b.tensor(w))
    assert block_fill(b.model(y)) == 5 / 8
    b = Builder()
    assert block_fill(b.model(b.conv("x", 8, 3, density=1.0))) == 1


def test_rounding_can_be_taken_out_again() -> None:
    plain = residual_net()
    model, _ = quantize_activations(plain, [{"x": X}])
    assert has_quantized_activations(model)
    assert remove_activation_quantization_(model)
    assert not has_quantized_activations(model)
    np.testing.assert_allclose(run(model, X), run(plain, X), rtol=1e-5, atol=1e-5)
    assert not remove_activation_quantization_(model)


@needs_library
@pytest.mark.parametrize("name", NETS)
def test_kernels_give_the_rounded_network(name: str, tmp_path) -> None:
    plain = NETS[name]()
    if not quantizable_activations(plain):
        return
    model, names = quantize_activations(plain, [{"x": X}])
    small = Packing.of(model, values=np.int8).model
    path = tmp_path / "m.onnx"
    onnx.save(small, path)
    want = run(small, X, exactly=True)
    built = build_programs(read_dense(small.SerializeToString()))
    assert sum(s.scale > 0 for r in built for s in r.steps) == len(names)
    session = runtime.session(path, threads=1, measure=False, cache=False)
    got = session.run(None, {"x": X})[0]
    assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()
    assert np.abs(got - want).mean() <= 0.002 * np.abs(want).max()


@needs_library
def test_all_of_a_residual_network_is_one_region() -> None:
    model, names = quantize_activations(residual_net(), [{"x": X}])
    (region,) = build_programs(
        read_dense(Packing.of(model, values=np.int8).model.SerializeToString())
    )
    assert len(names) == 4
    # a sum that is rounded, a MaxPool of it, and a convolution without Relu as the other term
    assert [s.op for s in region.steps].count(MAX_POOL) == 1
    assert [s.op for s in region.steps].count(ROUND) == 1
    assert region.steps[3].scale > 0
    assert region.steps[3].residual >= 0


@needs_library
@pytest.mark.parametrize("change", [{"axis": 0}, {"type": np.int8}])
def test_another_rounding_stays_outside(change: dict[str, object]) -> None:
    """A scale for each channel, signed bytes: none of it is what the kernels do."""
    b = Builder()
    scales = np.float32([0.1] * 8) if "axis" in change else np.float32(0.1)
    kind = change.get("type", np.uint8)
    zero = np.zeros_like(scales, kind)
    scale, zeros = b.tensor(scales), b.tensor(np.asarray(zero))
    x = b.op("Relu", b.conv("x", 8, 3))
    x = b.op("DequantizeLinear", b.op("QuantizeLinear", x, scale, zeros), scale, zeros)
    model = b.model(b.conv(x, 8, 8))
    assert has_quantized_activations(model)
    built = build_programs(read_dense(model.SerializeToString()))
    assert built
    assert all(s.scale == 0 for r in built for s in r.steps)


@needs_library
def test_a_scale_for_each_channel_on_the_way_back_stays_outside() -> None:
    b = Builder()
    scale, zero = b.tensor(np.float32(0.1)), b.tensor(np.uint8(0))
    scales, zeros = b.tensor(np.float32([0.1] * 8)), b.tensor(np.zeros(8, np.uint8))
    x = b.op("QuantizeLinear", b.op("Relu", b.conv("x", 8, 3)), scale, zero)
    x = b.op("DequantizeLinear", x, scales, zeros)
    built = build_programs(read_dense(b.model(b.conv(x, 8, 8)).SerializeToString()))
    assert built
    assert all(s.scale == 0 for r in built for s in r.steps)


def test_a_network_with_quantized_weights_is_another_thing() -> None:
    """Stock onnxruntime computes it in integers and the kernels leave it: 1e-4 holds for it."""
    b = Builder()
    scale, zero = b.tensor(np.float32(0.1)), b.tensor(np.uint8(0))
    w = b.op("DequantizeLinear", b.tensor(np.ones((8, 3, 1, 1), np.int8)), scale)
    x = b.op("DequantizeLinear", b.op("QuantizeLinear", "x", scale, zero), scale, zero)
    model = b.model(b.op("Relu", b.op("Conv", x, w)))
    before = model.SerializeToString()
    assert not has_quantized_activations(model)
    assert not remove_activation_quantization_(model)
    assert model.SerializeToString() == before
    assert has_quantized_activations(quantize_activations(residual_net(), [{"x": X}])[0])


def exact(seed: int) -> tuple[Program, np.ndarray]:
    """A chain in which every factor is a power of two, so that no sum is ever inexact."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice([1, 2, 3, 7, 8, 14, 17]))
    constants: list[np.ndarray] = []

    def conv(source: int, cin: int, cout: int, **more: object) -> Step:
        k = more.pop("k", 3)
        w = rng.integers(-127, 128, (cout, cin, k, k)) * (rng.random((cout, cin, k, k)) < 0.3)
        w[:, 0, 0, 0] = 127  # the scale of every row is then 1/64
        whole = Rice.encode((w / 64).astype(np.float32))
        step = Step(
            CONV, source, cout=cout, cin=cin, kernel=(k, k), pads=(k // 2,) * 4, format=RICE,
            constant=len(constants), **more,
        )  # fmt: skip
        constants.extend([*whole.arrays.values(), rng.integers(-9, 9, cout).astype(np.float32)])
        return step

    c = [int(n) for n in rng.integers(1, 19, 3)]
    steps = [
        conv(0, 3, c[0], scale=0.25, activation=RELU),  # 1: float to int8
        conv(1, c[0], c[1], scale=0.5, k=1),  # 2: int8 to int8
        conv(2, c[1], c[1], scale=0.125, residual=2),  # 3: with a residual of bytes
        conv(2, c[1], c[1]),  # 4: bytes to floats
        conv(
            3, c[1], c[1], scale=0.5, residual=4, activation=clamp(0.0, 6.0)
        ),  # 5: with one of floats
        Step(MAX_POOL, 5, cout=c[1], cin=c[1], kernel=(3, 3), strides=(2, 2), pads=(1,) * 4),  # 6
        conv(6, c[1], c[2], scale=0.25, strides=(2, 2)),  # 7
        Step(ADD, 7, cout=c[2], cin=c[2], residual=7, scale=2.0),  # 8: a sum, to int8
        conv(8, c[2], 5),  # 9
        Step(GLOBAL_AVERAGE, 7, cout=c[2], cin=c[2]),  # 10: of bytes
        Step(FLATTEN, 8, cout=c[2], cin=c[2]),  # 11
        Step(ROUND, 0, cout=3, cin=3, scale=0.0625, zero_point=9),  # 12: cut below −9/16
        conv(12, 3, c[0], scale=0.5, strides=(2, 2)),  # 13
        Step(ROUND, 13, cout=c[0], cin=c[0], scale=1.0, zero_point=100),  # 14: of bytes
        conv(14, c[0], c[1], k=1, residual=14 if c[0] == c[1] else -1),  # 15: in other tiles
        Step(MAX_POOL, 14, cout=c[0], cin=c[0], kernel=(2, 2), pads=(0, 0, 1, 1)),  # 16
    ]
    x = rng.integers(-127, 128, (2, 3, size, size)).astype(np.float32) / 128
    code = encode(steps, n_inputs=1, outputs=[3, 6, 9, 10, 11, 12, 15, 16])
    return Program(code, constants), x


@needs_library
@pytest.mark.parametrize("isa", ISAS)
def test_bytes_are_exact(isa: str) -> None:
    for seed in range(12):
        program, x = exact(seed)
        want = program.run([x], isa=REFERENCE)
        assert max(np.abs(w).max() for w in want) > 0
        for threads in (1, 3):
            for g, w in zip(program.run([x], isa=isa, threads=threads), want, strict=True):
                np.testing.assert_allclose(g, w, rtol=1e-6, atol=0)


@needs_library
def test_planes_that_are_too_large_for_bytes() -> None:
    """Sixteen bits do not reach over them, so they are multiplied as floats."""
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (4, 64, 1, 1)) * (rng.random((4, 64, 1, 1)) < 0.2)
    w[:, 0] = 127
    whole = Rice.encode((w / 64).astype(np.float32))
    first = np.ones((64, 1, 1, 1), np.float32)
    steps = [
        Step(CONV, 0, cout=64, cin=1, kernel=(1, 1), format=DENSE, scale=0.5),
        Step(CONV, 1, cout=4, cin=64, format=RICE, constant=2, scale=0.25),
    ]
    constants = [first, np.zeros(64, np.float32), *whole.arrays.values(), np.zeros(4, np.float32)]
    x = rng.integers(0, 99, (1, 1, 300, 290)).astype(np.float32)
    program = Program(encode(steps, n_inputs=1, outputs=[2]), constants)
    (want,) = program.run([x], isa=REFERENCE)
    (got,) = program.run([x], isa=ISAS[0])
    assert want.max() > 0
    np.testing.assert_allclose(got, want, rtol=1e-6)


@needs_library
@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf"), 1e-40])
def test_a_hostile_scale(scale: float) -> None:
    step = Step(CONV, 0, cin=1, scale=scale, format=DENSE)
    constants = [np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)]
    with pytest.raises(ModelFileError, match="a scale is neither 0 nor from"):
        Program(encode([step], n_inputs=1, outputs=[1]), constants)
    refused = {
        "only a Conv, an Add and a Round have a scale": {"op": MAX_POOL, "scale": 1.0},
        "only a Conv, an Add and a Round have": {"op": FLATTEN, "scale": 1.0},
        "a Round needs a scale": {"op": ROUND, "scale": 0.0},
        "and a zero point of at most 255": {"op": ROUND, "scale": 1.0, "zero_point": 256},
        "only a Conv, an Add and a Gemm have a residual": {
            "op": ROUND,
            "scale": 1.0,
            "residual": 0,
        },
    }
    for why, fields in refused.items():
        with pytest.raises(ModelFileError, match=why):
            Program(encode([replace(step, **fields)], n_inputs=1, outputs=[1]), constants)


def test_an_exported_run(demo_run, tmp_path) -> None:
    run_folder = next((demo_run.cwd / "runs").iterdir())
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    made = demo_run("export", folder, "--activations", "int8", "--json")
    assert made.code == 0, made.err
    assert made.json["values"] == "int8"
    rounded = [n for n in made.json["notes"] if "made-up inputs" in n]
    assert [n.split(" change ")[0] for n in rounded] == ["int8 values and activations"]
    path = folder / "model.w8a8.onnx"
    assert made.json["path"].endswith(path.name)
    opened = SparseModel.open(path)
    assert opened.has_quantized_activations
    test = opened.metadata.selftest
    assert test.outputs[0].atol == pytest.approx(BYTES_RTOL * max(1, np.abs(test.logits).max()))


@pytest.mark.slow
def test_verify_judges_it(demo_run) -> None:
    path = next((demo_run.cwd / "runs").iterdir()) / "model.w8a8.onnx"
    if not path.exists():
        assert demo_run("export", "--activations", "int8").code == 0
    report = demo_run("verify", path, "--seconds", 0.2, "--batch", 1, "--json")
    assert report.code == 0, report.out
    names = {v["name"] for v in report.json["verdicts"]}
    assert ("kernels against stock" in names) == (kernels.library_path() is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--activations", "int4"], "unknown type of activations"),
        (["--activations", "int8", "--values", "fp16"], "--activations int8 needs --values int8"),
        (["--activations", "int8", "--format", "csr"], "--activations is for --format onnx"),
        (["--data", "mnist"], "--data and --data-dir are for --activations int8"),
        (["--activations", "int8", "--data", "imagenet-22"], "unknown data set"),
    ],
)
def test_mistakes(demo_run, arguments: list[str], message: str) -> None:
    made = demo_run("export", *arguments)
    assert made.code == 2
    assert message in " ".join(made.err.split())
    assert "Traceback" not in made.err


def test_the_newest_export_is_meant(tmp_path) -> None:
    run, runs = tmp_path / "runs" / "a", tmp_path / "runs"
    run.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"no .*model\.onnx here; run `fggp-deploy export`"):
        packed(None, runs)
    with pytest.raises(ConfigError, match=r"runs/a has no model\.onnx; run `fggp-deploy export"):
        packed(run)
    names = ("model.onnx", "model.w8a8.onnx", "model.w8a8.compiled.onnx", "reference.onnx")
    for age, name in enumerate(names):
        (run / name).touch()
        os.utime(run / name, (age, age))
    assert packed(None, runs) == packed(run) == run / "model.w8a8.onnx"
    os.utime(run / "model.onnx", (9, 9))
    assert packed(run).name == "model.onnx"
    assert packed(run / "reference.onnx").name == "reference.onnx"  # who names a file gets it


def test_a_depthwise_network_is_rounded_where_all_channels_meet() -> None:
    model, names = quantize_activations(mobile_net(), [{"x": X}])
    assert names
    assert has_quantized_activations(model)
