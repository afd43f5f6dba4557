"""Regions: which layers belong together, even if sizes are open, and what they cost."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from graphs import Builder, open_model, residual_net
from onnx import ModelProto, TensorProto, helper

from fggp_deploy import kernels, runtime
from fggp_deploy.runtime import costs, selection
from fggp_deploy.runtime.compiler import price_layers
from fggp_deploy.runtime.named_shapes import value_shapes
from fggp_deploy.runtime.plan import CompileRequest
from fggp_deploy.runtime.regions import programs
from fggp_deploy.runtime.regions.programs import build_programs
from fggp_deploy.runtime.selection import Selection
from fggp_deploy.runtime.sessions import SessionConfig

pytestmark = pytest.mark.skipif(kernels.library_path() is None, reason="no kernel library")


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same_as_stock(model: ModelProto, *every: dict[str, np.ndarray]) -> str:
    """Both runtimes must agree on every feed; returns the explanation of the session."""
    content = model.SerializeToString()
    session = runtime.session(content, threads=1, measure=False, cache=False)
    stock = SessionConfig(1).open(content)
    for feeds in every:
        for got, want in zip(session.run(None, feeds), stock.run(None, feeds), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    return runtime.explain(session)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose every layer that is left, without timing."""

    def instead(contenders: dict[str, Any]) -> Selection:
        for contender in contenders.values():
            contender()()
        return Selection("whole", 2.0, 3.0)

    monkeypatch.setattr(selection, "choose", instead)


# which layers belong together


def test_towers_of_two_batches_are_two_regions() -> None:
    b = Builder()
    ends = [b.op("Relu", b.conv(b.conv(x, 8, 3), 8, 8)) for x in ("a", "b")]
    means = [b.op("Flatten", b.op("GlobalAveragePool", y)) for y in ends]
    y = b.op("MatMul", means[0], b.op("Transpose", means[1], perm=[1, 0]))
    model = open_model(b, {"a": ["N", 3, 8, 8], "b": ["M", 3, 8, 8]}, y)
    feeds = [{"a": numbers(n, 3, 8, 8), "b": numbers(m, 3, 8, 8)} for n, m in ((1, 5), (2, 2))]
    assert "4 layers in 2 regions" in same_as_stock(model, *feeds)


def test_rows_of_tokens_and_planes_are_two_regions() -> None:
    b = Builder()
    plane = b.op("Relu", b.conv("x", 8, 3))
    tokens = b.op("Gemm", "t", b.weight(16, 12), b.tensor(numbers(16)), transB=1)
    model = open_model(b, {"x": ["N", 3, 8, 8], "t": ["T", 12]}, plane, tokens)
    assert "in 2 regions" in same_as_stock(model, {"x": numbers(2, 3, 8, 8), "t": numbers(7, 12)})


def test_branches_of_one_input_are_one_region() -> None:
    b = Builder()
    y = b.op("Sigmoid", b.op("Add", b.conv("x", 8, 3), b.conv("x", 8, 3)))
    (region,) = build_programs(open_model(b, {"x": ["N", 3, 8, 8]}, y))
    assert len(region.region.layers) == 2


def test_an_open_size_is_equal_only_to_itself() -> None:
    b = Builder()
    y = b.op("Relu", b.op("Add", b.conv("a", 8, 3), "g"))
    model = open_model(b, {"a": ["N", 3, 8, 8], "g": ["M", 8, 8, 8]}, y)
    feeds = [{"a": numbers(3, 3, 8, 8), "g": numbers(m, 8, 8, 8)} for m in (1, 3)]
    assert "kernels: 1 layers" in same_as_stock(model, *feeds)
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "N"
    (region,) = build_programs(model)
    assert len(region.region.inputs) == 2  # the Add too


@pytest.mark.parametrize("batch", ["n", None, -1])
def test_values_of_one_open_batch_are_added(batch: Any) -> None:
    model = residual_net()
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.Clear()
    if batch == -1:
        dim.dim_value = -1  # as some exporters write
    elif batch:
        dim.dim_param = batch
    (region,) = build_programs(model)
    assert len(region.steps) == 9


def test_names_of_open_sizes() -> None:
    b = Builder()
    y = b.conv("x", 8, 3)
    half, same_half = b.conv(y, 8, 8, 3, 2), b.op("Sigmoid", b.conv(y, 8, 8, 3, 2))
    smaller = b.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2])
    other = b.op("Reshape", y, b.tensor(np.array([0, 8, -1, 4])))
    model = open_model(b, {"x": ["N", 3, None, "w"]}, half, same_half, smaller, other)
    shapes = value_shapes(model)
    assert shapes[y][0] == "N"
    assert shapes[y][2:] == shapes["x"][2:]
    assert shapes[half] == shapes[same_half]
    assert len({shapes[v][2] for v in (y, half, smaller, other)}) == 4
    assert shapes[other][1::2] == [8, 4]


# subgraphs


def branches(b: Builder, flag: str, value: str) -> str:
    """An If that reads `value` in both branches, in one with an initializer of the outer graph."""
    scale = b.tensor(np.array(2, np.float32))
    bodies = {}
    for name, op in (("then_branch", "Mul"), ("else_branch", "Sub")):
        y = helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, [None] * 4)
        node = helper.make_node(op, [value, scale], [f"{name}.y"])
        bodies[name] = helper.make_graph([node], name, [], [y])
    return b.op("If", flag, **bodies)


@pytest.mark.parametrize("flag", [False, True])
def test_an_if_leaves_the_rest_on_the_kernels(flag: bool) -> None:
    b = Builder()
    inner = b.conv("x", 8, 3)  # the If reads it, so no Relu is fused into it
    y = b.op("Relu", inner)
    z = b.conv(b.op("Add", b.conv(y, 8, 8), branches(b, "flag", inner)), 4, 8)
    model = open_model(b, {"flag": TensorProto.BOOL, "x": ["N", 3, 8, 8]}, z)
    feeds = {"flag": np.array(flag), "x": numbers(2, 3, 8, 8)}
    assert "3 layers in 2 regions" in same_as_stock(model, feeds)


def looping_net(steps: int) -> ModelProto:
    """A Loop between two convolutions, which adds what the first one makes."""
    b = Builder()
    y = b.op("Relu", b.conv("x", 8, 3))
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", y], ["next"]),
            helper.make_node("Identity", ["on"], ["still"]),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("on", TensorProto.BOOL, []),
            info("state", TensorProto.FLOAT, [None] * 4),
        ],
        [info("still", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, [None] * 4)],
    )
    out = b.op("Loop", b.tensor(np.array(steps)), "", y, body=body)
    return open_model(b, {"x": [1, 3, 8, 8]}, b.conv(out, 4, 8))


def test_a_loop_leaves_the_rest_on_the_kernels() -> None:
    feeds = {"x": numbers(1, 3, 8, 8)}
    assert "2 layers in 2 regions" in same_as_stock(looping_net(3), feeds)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork there is no limit")
def test_a_loop_without_end_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGGP_TRIAL_SECONDS", "1")
    session = runtime.session(looping_net(2**62).SerializeToString(), threads=1, cache=False)
    assert "plain: a first run of the model did not end within 1 s" in runtime.explain(session)


def test_a_network_with_a_boolean_input_is_measured(whole: None) -> None:
    b = Builder()
    y = branches(b, "flag", b.op("Relu", b.conv("x", 8, 3)))
    model = open_model(b, {"flag": TensorProto.BOOL, "x": [1, 3, 8, 8]}, y)
    session = runtime.session(model.SerializeToString(), threads=1, tuning_seconds=0, cache=False)
    assert runtime.uses_kernels(session), runtime.explain(session)


# how many there can be


def test_the_largest_of_too_many_regions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    y, layers = "x", []
    for cin, cout in ((3, 4), (4, 32), (32, 16), (16, 4)):
        layers.append(b.conv(y, cout, cin))
        y = b.op("Sigmoid", layers[-1])
    model = open_model(b, {"x": ["N", 3, 8, 8]}, y)
    assert len(build_programs(model)) == 4
    monkeypatch.setattr(programs, "MAX_REGIONS", 2)
    assert [r.region.layers[0].output for r in build_programs(model)] == layers[1:3]
    assert "2 regions, the maximum" in same_as_stock(model, {"x": numbers(2, 3, 8, 8)})


def test_the_library_has_as_many_regions_as_the_planner() -> None:
    source = Path(__file__).parents[2] / "fggp_deploy/kernels/csrc/api/ort_ops.cpp"
    (found,) = re.findall(r"kRegions = (\d+);", source.read_text())
    assert int(found) == programs.MAX_REGIONS


# what they cost


def test_layers_of_many_rows_are_priced_by_all_rows() -> None:
    b = Builder()
    y = b.op("Gemm", "x", b.weight(16, 12), b.tensor(numbers(16)), transB=1)
    rows = b.op("Reshape", "y", b.tensor(np.array([-1, 12])))  # 50 of each image
    z = b.op("Gemm", rows, b.weight(8, 12), b.tensor(numbers(8)), transB=1)
    model = open_model(b, {"x": ["N", 12], "y": ["N", 50, 12]}, y, z)
    found = price_layers(
        model.SerializeToString(), CompileRequest(SessionConfig(1), batch=2, tuning_seconds=0)
    )
    assert [(c.macs, c.elements) for c in found] == [(16 * 12, 16), (50 * 8 * 12, 50 * 8)]


def test_how_much_longer_all_rows_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Library:
        def run(self, inputs: list[np.ndarray], *, isa: str) -> None:
            now[0] += 5e-6 + 2e-6 * len(inputs[0])  # 5 µs a call, 2 µs a row

    region: Any = SimpleNamespace(images=100, shapes=[[12]])
    program: Any = Library()
    assert costs._rows_over_one(program, region, 2.0, "any") == pytest.approx(100)


def test_layers_behind_sizes_that_only_a_run_shows_are_priced() -> None:
    b = Builder()
    y = b.op("Relu", b.conv("x", 8, 3))
    # as NonZero: how many planes come out depends on the numbers that are fed
    batch = b.op("Slice", b.op("Shape", "x"), *(b.tensor(np.array([i])) for i in (0, 1)))
    sides = b.op("Concat", batch, b.tensor(np.array([8, 8, 32])), axis=0)
    z = b.conv(b.op("Reshape", y, sides), 4, 8)
    model = open_model(b, {"x": ["N", 3, 16, 16]}, z)
    found = price_layers(
        model.SerializeToString(), CompileRequest(SessionConfig(1), tuning_seconds=0)
    )
    assert [c.macs for c in found] == [8 * 27 * 256, 4 * 72 * 256]


def tall_net(dilation: int) -> ModelProto:
    """The second convolution reaches over many rows."""
    b = Builder()
    y = b.op("Relu", b.conv("x", 4, 3))
    y = b.op("Conv", y, b.weight(4, 4, 2, 1), dilations=[dilation, 1])
    y = b.op("MaxPool", b.op("Sigmoid", y), kernel_shape=[3, 3])
    return open_model(b, {"x": ["N", 3, dilation + 8, 1100]}, b.conv(y, 8, 4))


@pytest.mark.parametrize("measure", [False, True])
@pytest.mark.parametrize("dilation", [1000, 1100])  # refused for its sizes here, and for any
def test_a_layer_that_the_library_refuses_does_not_take_the_others_along(
    dilation: int, measure: bool, whole: None
) -> None:
    content = tall_net(dilation).SerializeToString()
    session = runtime.session(content, threads=1, measure=measure, tuning_seconds=0, cache=False)
    assert runtime.explain(session).startswith("kernels: 2 layers in 2 regions")
    x = numbers(1, 3, dilation + 8, 1100)
    want = SessionConfig(1).open(content).run(None, {"x": x})[0]
    np.testing.assert_allclose(session.run(None, {"x": x})[0], want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("size", "layers"), [(7, 1), (20, 2)])
def test_a_window_larger_than_what_it_makes_is_left_where_nothing_is_measured(
    size: int, layers: int
) -> None:
    b = Builder()
    y = b.op("Conv", b.op("Relu", b.conv("x", 8, 3)), b.weight(8, 8, 7, 7))
    model = open_model(b, {"x": ["N", 3, size, size]}, y)
    assert f"kernels: {layers} layers" in same_as_stock(model, {"x": numbers(2, 3, size, size)})
