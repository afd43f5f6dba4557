"""explain, bench and the planner on networks that are no classifiers of images."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import Builder, detector_net
from onnx import ModelProto, TensorProto, helper
from typer.testing import CliRunner

from cli.main import app
from fggp_deploy.analysis.bench.benchmark import bench
from fggp_deploy.analysis.bench.options import BenchOptions
from fggp_deploy.analysis.explain import explain
from fggp_deploy.analysis.explain_page import findings, numbered, reasons
from fggp_deploy.common import timing
from fggp_deploy.graph.weights import layer_weights
from fggp_deploy.runtime.reasons import why_no_layer

pytestmark = pytest.mark.usefixtures("shapes_in_process")

BRIEF = 0.001  # seconds
FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


@pytest.fixture(autouse=True)
def without_kernels(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGGP_KERNELS", "none")


def model(b: Builder, inputs: dict[str, Any], outputs: dict[str, Any]) -> ModelProto:
    """A model whose inputs and outputs are name → (element type, shape)."""
    xs, ys = (
        [helper.make_tensor_value_info(n, *what) for n, what in values.items()]
        for values in (inputs, outputs)
    )
    graph = helper.make_graph(b.nodes, "g", xs, ys, b.tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def saved(made: ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(made, path)
    return path


def two_inputs() -> ModelProto:
    b = Builder()
    y = b.op("Add", b.op("MatMul", "a", b.weight(64, 32)), b.op("MatMul", "c", b.weight(48, 32)))
    return model(b, {"a": (FLOAT, ["n", 64]), "c": (FLOAT, ["n", 48])}, {y: (FLOAT, ["n", 32])})


def sequence() -> ModelProto:
    b = Builder()
    y = b.op("Conv", "x", b.weight(32, 16, 3))
    return model(b, {"x": (FLOAT, [1, 16, 40])}, {y: (FLOAT, [1, 32, 38])})


def half() -> ModelProto:
    b = Builder()
    y = b.op("MatMul", "x", b.tensor(np.eye(64, dtype=np.float16)))
    return model(b, {"x": (HALF, ["n", 64])}, {y: (HALF, ["n", 64])})


def tokens() -> ModelProto:
    b = Builder()
    y = b.op("MatMul", b.op("Gather", b.weight(100, 64), "ids"), b.weight(64, 64))
    return model(b, {"ids": (INT64, ["n", 7])}, {y: (FLOAT, ["n", 7, 64])})


def one_image() -> ModelProto:
    b = Builder()
    axis = b.tensor(np.array([0]))
    y = b.op("Conv", b.op("Unsqueeze", "x", axis), b.weight(8, 3, 3, 3))
    return model(b, {"x": (FLOAT, [3, 12, 12])}, {y: (FLOAT, [1, 8, 10, 10])})


ANY = {
    "detector": (detector_net, ("x 1×3×16×16",)),
    "two inputs": (two_inputs, ("a 1×64", "c 1×48")),
    "sequence": (sequence, ("x 1×16×40",)),
    "half": (half, ("x 1×64",)),
    "tokens": (tokens, ("ids 1×7",)),
    "one image": (one_image, ("x 3×12×12",)),
}


@pytest.mark.parametrize("name", ANY)
def test_any_network_is_explained_and_timed(name: str, tmp_path: Path) -> None:
    make, inputs = ANY[name]
    found = explain(saved(make(), tmp_path), seconds=BRIEF)
    assert found.speed is not None, found.not_measured
    assert found.speed.inputs == inputs
    assert found.weights
    assert "not built" in findings(found)[-1]  # the plan's own reason


def test_a_busy_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(two_inputs(), tmp_path)
    assert "too busy" not in findings(explain(path, seconds=BRIEF))[-1]
    reads = itertools.count()
    monkeypatch.setattr(timing, "waited_seconds", lambda: 3600.0 * next(reads))
    assert "too busy to measure speed" in findings(explain(path, seconds=BRIEF))[-1]


def test_open_sizes_are_asked_for_and_taken(tmp_path: Path) -> None:
    b = Builder()
    made = b.model(b.conv("x", 8, 3))
    for dim, name in zip(made.graph.input[0].type.tensor_type.shape.dim, "nchw", strict=True):
        dim.dim_param = name
    path = saved(made, tmp_path)
    asked = explain(path, seconds=BRIEF)
    assert asked.speed is None
    found = findings(asked)[-1]
    assert found.startswith("Speed: not measured, because the size of its input 'x' is open")
    assert "--shape 3,224,224" in found
    assert asked.weights[0].macs is None
    given = explain(path, seconds=BRIEF, shape=(3, 10, 12))
    assert given.speed is not None
    assert given.speed.inputs == ("x 1×3×10×12",)
    assert given.weights[0].macs == 10 * 12 * 8 * 3 * 9


def test_what_cannot_be_run_says_why(tmp_path: Path) -> None:
    b = Builder()
    y = b.op("MatMul", "x", b.weight(64, 64))
    path = saved(model(b, {"x": (FLOAT, ["n", "k"])}, {y: (FLOAT, ["n", 64])}), tmp_path)
    found = explain(path, seconds=BRIEF, shape=(5,))
    assert "not measured, because it does not run on made-up inputs" in findings(found)[-1]
    assert "--seconds is 0" in findings(explain(path, seconds=0))[-1]


def test_a_reason_is_told_once(tmp_path: Path) -> None:
    found = explain(saved(detector_net(), tmp_path), seconds=0)
    assert len(found.weights) == 7
    assert len(reasons(found)) == len(numbered(found)) < 4
    made = CliRunner().invoke(app, ["explain", str(tmp_path / "net.onnx"), "--seconds", "0"])
    assert made.exit_code == 0
    for line in numbered(found):
        assert made.stdout.count(line) == 1


def test_one_image_is_a_batch_of_one(tmp_path: Path) -> None:
    found = bench(saved(one_image(), tmp_path), BenchOptions(int8=False, seconds=BRIEF, sessions=6))
    assert {c.batch for c in found.cells} == {1}


def test_shapes_that_are_lost_are_the_reason() -> None:
    b = Builder()
    flat = b.op("Flatten", b.op("Resize", "x", "", "s"))
    y = b.op("MatMul", flat, b.weight(16, 8))
    given = {"x": (FLOAT, ["n", 1, 4, 4]), "s": (FLOAT, [4])}
    made = model(b, given, {y: (FLOAT, ["n", 8])})
    found = why_no_layer(made, {"x": [0, 1, 4, 4]})
    assert found == (
        "the shapes behind Resize 'v0' are not known; export the network with fixed sizes"
    )
    assert why_no_layer(made, {"x": [0], "v0": [0] * 4, "v1": [0, 0]}).startswith("it has no layer")
    del made.graph.node[2]
    assert "no convolution or linear layer" in why_no_layer(made, {})


def test_weights_of_layers_and_other_constants() -> None:
    """A transposed weight and a dequantized one count; anchors and an embedding do not."""
    b = Builder()
    turned = b.op("Transpose", b.weight(8, 6), perm=[1, 0])
    whole = b.op("DequantizeLinear", b.tensor(np.ones((8, 4), np.int8)), b.tensor(np.float32(1)))
    y = b.op("MatMul", b.op("MatMul", b.op("Gather", b.weight(9, 6), "ids"), turned), whole)
    y = b.op("Add", y, b.weight(5, 4))
    made = model(b, {"ids": (INT64, [5])}, {y: (FLOAT, [5, 4])})
    found = layer_weights(made.graph, [t.name for t in made.graph.initializer])
    assert {n: [x.op_type for x in nodes] for n, nodes in found.items()} == {
        "t0": ["MatMul"], "t1": ["MatMul"],
    }  # fmt: skip
