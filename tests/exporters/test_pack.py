"""`fggp-deploy pack`: files made by others, the same network afterwards or a refusal."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import NETS, Builder, detector_net, residual_net
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from cli.main import app
from fggp_deploy import kernels
from fggp_deploy.analysis.explain import explain
from fggp_deploy.errors import ConfigError, FggpError, ModelFileError
from fggp_deploy.exporters.options import PackOptions
from fggp_deploy.exporters.pack import pack_file
from fggp_deploy.exporters.parity import run_self_test
from fggp_deploy.format.generated_inputs import Input
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.packing import flatten
from fggp_deploy.format.self_test import KEY, SelfTest
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph import opset
from fggp_deploy.graph.comparison import Parity, noise
from fggp_deploy.quantization.dense_baseline import quantize
from fggp_deploy.runtime.compile_to_file import compile_file
from fggp_deploy.runtime.sessions import SessionConfig

pytestmark = pytest.mark.usefixtures("shapes_in_process")

MEAN = (0.5, 0.4, 0.3)


def saved(model: ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    return path


def outputs(path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    return SessionConfig(1).open(path).run(None, feeds)


@pytest.mark.parametrize("name", ["residual", "mobile", "split"])
def test_dense_zeros_are_packed(name: str, tmp_path: Path) -> None:
    source = saved(NETS[name](), tmp_path)
    made = pack_file(source)
    assert made.path == tmp_path / "other.packed.onnx"
    assert made.bit_equal
    assert made.error == 0
    assert not made.preprocessing
    assert set(run_self_test(made.path).values()) == {True}
    with pytest.raises(ModelFileError, match="does not say how its images are prepared"):
        _ = SparseModel.open(made.path).metadata.images


def test_sparse_initializers_are_packed(tmp_path: Path) -> None:
    model = residual_net()
    expected = saved(model, tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    want = outputs(expected, x=x)
    tensor = next(t for t in model.graph.initializer if tuple(t.dims) == (16, 16, 3, 3))
    w = numpy_helper.to_array(tensor).reshape(-1)
    index = np.flatnonzero(w)
    sparse = model.graph.sparse_initializer.add(dims=tensor.dims)
    sparse.values.CopyFrom(numpy_helper.from_array(w[index], tensor.name))
    sparse.indices.CopyFrom(numpy_helper.from_array(index, "i"))
    model.graph.initializer.remove(tensor)
    made = pack_file(saved(model, tmp_path))
    assert not onnx.load(made.path).graph.sparse_initializer
    np.testing.assert_array_equal(outputs(made.path, x=x)[0], want[0])


def test_a_classifier_becomes_a_file_that_verifies(tmp_path: Path, program) -> None:
    (program.cwd / "names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    saved(residual_net(), program.cwd)
    options = ["--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2"]
    made = program("pack", "other.onnx", *options, "--classes", "names.txt", "--json")
    assert made.code == 0, made.err
    meta = SparseModel.open(program.cwd / made.json["path"]).metadata
    assert meta.preprocessing.mean == MEAN
    assert meta.classes[9] == "class 9"
    assert meta.parent_sha256 is None
    assert meta.provenance["pack"]["config"]["source_sha256"]
    checked = program(
        "verify", "other.packed.onnx", "--no-data", "--seconds", "0.2", "--out", "r", "--json"
    )
    assert checked.code == 0, checked.err


def test_a_file_without_preprocessing_in_every_command(program) -> None:
    model = residual_net()
    model.metadata_props.add(key="author", value="somebody")
    saved(model, program.cwd)
    made = program("pack", "other.onnx", "-o", "p.onnx")
    assert made.code == 0, made.err
    assert "does not record how images are prepared; if it takes images, give --mean" in made.out
    assert "left dense: " in made.out
    props = {p.key: p.value for p in onnx.load(program.cwd / "p.onnx").metadata_props}
    assert props["author"] == "somebody"
    shown = program("inspect", "p.onnx", "--json")
    assert shown.code == 0, shown.err
    assert {r["encoding"] for r in shown.json["layers"]} >= {"gaps8", "dense"}
    assert program("pack", "p.onnx", "--check").code == 0
    refused = program("verify", "p.onnx", "--data", "fashion-mnist-12k")
    assert refused.code == 2
    assert "--mean and --std" in refused.err
    checked = program("verify", "p.onnx", "--seconds", "0.2", "--threads", "1")
    assert checked.code == 0, checked.err
    assert "Accuracy was not measured" in checked.out
    assert "PASSED" in checked.out


def test_it_compiles_and_keeps_its_self_test(tmp_path: Path) -> None:
    if kernels.library_path() is None:
        pytest.skip("no kernel library")
    made = pack_file(saved(residual_net(), tmp_path))
    fast = compile_file(made.path, measure=False)
    assert fast.self_test
    assert run_self_test(fast.path) == {"stock": True, "kernels": True}


def test_check_fails_on_a_changed_file(tmp_path: Path) -> None:
    made = pack_file(saved(residual_net(), tmp_path))
    model = onnx.load(made.path)
    tensor = next(t for t in model.graph.initializer if t.name.endswith(".values"))
    w = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(w * 2, tensor.name))
    onnx.save(model, made.path)
    assert not any(run_self_test(made.path).values())


def transposed_net() -> ModelProto:
    """A transposed, a grouped, a one-dimensional convolution and a MatMul on a sequence."""
    b = Builder()
    y = b.op("ConvTranspose", "x", b.weight(3, 64, 3, 3), strides=[2, 2])
    y = b.op("Relu", b.conv(y, 64, 64, group=4))
    y = b.op("ReduceMean", y, b.tensor(np.array([2])), keepdims=0)
    y = b.op("Conv", y, b.weight(64, 64, 3), pads=[1, 1])
    return b.model(b.op("MatMul", b.op("Transpose", y, perm=[0, 2, 1]), b.weight(64, 32)))


def quantized_net(zero: int = 0, kind: type[np.generic] = np.int8) -> ModelProto:
    """A QDQ convolution whose weight has zeros, and a float one."""
    b = Builder()
    w = b.rng.integers(-127, 128, (64, 3, 3, 3))
    w[b.rng.random(w.shape) > 0.1] = 0
    whole, zero_point = (b.tensor((a + zero).astype(kind)) for a in (w, np.array(0)))
    scale = b.tensor(np.array(0.01, np.float32))
    weight = b.op("DequantizeLinear", whole, scale, zero_point)
    y = b.op("Relu", b.op("Conv", "x", weight, pads=[1] * 4))
    return b.model(b.conv(y, 64, 64))


def function_net() -> ModelProto:
    """A model-local function of somebody else's domain."""
    b = Builder()
    y = b.conv("x", 64, 3)
    b.nodes.append(helper.make_node("Twice", [y, b.weight(64, 64, 1, 1)], ["z"], domain="them"))
    body = [
        helper.make_node("Conv", ["a", "w"], ["c"]),
        helper.make_node("Add", ["c", "c"], ["y"]),
    ]
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("them", "Twice", ["a", "w"], ["y"], body, opsets)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 64, 16, 16])
    graph = helper.make_graph(b.nodes, "g", [x], [z], b.tensors)
    imports = [*opsets, helper.make_opsetid("them", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=[function])


def branch_net() -> ModelProto:
    """Weights inside of an If, which are left alone."""
    b = Builder()
    y = b.conv("x", 64, 3)
    tensor = numpy_helper.from_array(np.eye(16, dtype=np.float32), "inner")
    branches = []
    for i in (0, 1):
        out = helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, None)
        node = helper.make_node("MatMul", [y, "inner"], [f"o{i}"])
        branches.append(helper.make_graph([node], f"b{i}", [], [out], [tensor]))
    yes = b.tensor(np.array(True))
    z = b.op("If", yes, then_branch=branches[0], else_branch=branches[1])
    return b.model(z)


OTHERS = {
    "transposed": (transposed_net, ""),
    "quantized": (quantized_net, ""),
    "uint8": (lambda: quantized_net(128, np.uint8), "it is uint8, quantized; only float and int8"),
    "zero_point": (lambda: quantized_net(3), "% zeros, dense is no larger"),
    "function": (function_net, ""),
    "branch": (branch_net, "it belongs to a subgraph of If"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_operators_are_never_wrong(name: str, tmp_path: Path) -> None:
    make, note = OTHERS[name]
    made = pack_file(saved(make(), tmp_path))
    assert made.bit_equal
    assert made.n_packed
    assert any(note in line for line in made.notes) or not note


def qdq_net(opset: int) -> ModelProto:
    """What onnxruntime's own static quantization makes of a network with zeros."""
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((2, 3, 16, 16)).astype(np.float32)} for _ in range(3)]
    model = residual_net()
    model.opset_import[0].version = opset
    return onnx.load_model_from_string(quantize(model, feeds))


def optimized(path: Path) -> list[str]:
    """The operators that onnxruntime runs."""
    made = path.with_name("optimized.onnx")
    options = SessionConfig(1).make()
    options.optimized_model_filepath = str(made)
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(made).graph.node]


@pytest.mark.parametrize("opset", [13, 18])
def test_a_quantized_network_is_packed_with_its_own_int8_values(tmp_path: Path, opset: int) -> None:
    source = saved(qdq_net(opset), tmp_path)
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    made = pack_file(source)
    assert made.bit_equal
    assert made.n_packed == 5
    assert made.n_zeros > 0.85 * made.n_weights
    (note,) = made.notes
    assert note == "left dense: t0_quantized: 0.7% zeros, dense is no larger"
    assert set(run_self_test(made.path).values()) == {True}
    assert optimized(made.path) == optimized(source)  # nothing keeps it from integer kernels
    packed = onnx.load(made.path)
    assert sum(n.op_type == "UnriceInt8" for n in packed.graph.node) == 5
    for m in (packed, flatten(packed)):
        for t in unpack(m).graph.initializer:
            if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1:
                assert np.array_equal(numpy_helper.to_array(t), before[t.name])


def test_an_older_opset_is_raised_and_run(tmp_path: Path) -> None:
    model = residual_net()
    model.opset_import[0].version = 13
    made = pack_file(saved(model, tmp_path))
    assert (made.source_opset, made.opset) == (13, 18)
    assert made.ran == ("x 1×3×16×16",)


def needs_a_side(opset: int) -> ModelProto:
    """A network that takes images of 24 by 24 alone, and does not say so."""
    b = Builder()
    y = b.op("Add", b.conv("x", 64, 3), b.tensor(np.zeros((1, 64, 24, 24), np.float32)))
    model = b.model(y, size=24)
    for side, value in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], "hw", strict=True):
        side.dim_param = value
    model.opset_import[0].version = opset
    return model


def test_what_cannot_be_run_is_compared_weight_by_weight(tmp_path: Path) -> None:
    made = pack_file(saved(needs_a_side(18), tmp_path))
    assert made.ran == ()
    assert "does not run on made-up inputs" in made.why_not
    made = pack_file(saved(needs_a_side(18), tmp_path), options=PackOptions(shape=(3, 24, 24)))
    assert made.ran == ("x 1×3×24×24",)


def test_what_was_raised_and_cannot_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be run to prove"):
        pack_file(saved(needs_a_side(13), tmp_path))
    assert pack_file(
        saved(needs_a_side(13), tmp_path), options=PackOptions(shape=(3, 24, 24))
    ).bit_equal


def test_random_outputs_are_told(tmp_path: Path) -> None:
    b = Builder()
    y = b.conv("x", 64, 3)
    made = pack_file(saved(b.model(b.op("Add", y, b.op("RandomNormalLike", y))), tmp_path))
    assert made.why_not == "its outputs for the same inputs differ each time"


def test_scores_that_are_nearly_zero_are_packed(tmp_path: Path) -> None:
    made = pack_file(saved(detector_net(), tmp_path))
    assert made.bit_equal
    assert made.kernels_error is None or made.kernels_error < 0.5


def with_anchors() -> ModelProto:
    """A convolution, 90% zeros, and a larger constant, nearly all zeros, that is added."""
    b = Builder()
    y = b.conv("x", 32, 3)
    return b.model(b.op("Add", y, b.weight(1, 32, 16, 16, density=0.01)))


def test_anchors_are_packed_and_are_no_weights(tmp_path: Path) -> None:
    model = with_anchors()
    w = numpy_helper.to_array(model.graph.initializer[0])
    path = saved(model, tmp_path)
    made = pack_file(path)
    assert made.n_packed == 2
    assert (made.n_weights, made.n_zeros) == (w.size, int((w == 0).sum()))
    for file in (path, made.path):  # the same count of the dense file and of the packed one
        weights = [x for x in SparseModel.open(file).layers if x.of_layer]
        assert [(x.op, x.size, x.size - x.nnz) for x in weights] == [
            ("Conv", made.n_weights, made.n_zeros)
        ]
        assert explain(file, seconds=0).sparsity == pytest.approx(made.n_zeros / made.n_weights)
        reported = CliRunner().invoke(app, ["inspect", str(file), "--json"])
        assert json.loads(reported.stdout)["n_all_weights"] == made.n_weights


def class_of_each_pixel() -> ModelProto:
    b = Builder()
    model = b.model(b.conv("x", 12, 3))
    model.graph.node.append(helper.make_node("ArgMax", ["v0"], ["y"], axis=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.INT64, None))
    return onnx.shape_inference.infer_shapes(model)


def test_integer_outputs_are_proved(tmp_path: Path) -> None:
    made = pack_file(saved(class_of_each_pixel(), tmp_path))
    assert made.ran == ("x 1×3×16×16",)
    assert made.bit_equal
    assert set(run_self_test(made.path).values()) == {True}
    model = onnx.load(made.path)
    (test,) = (p for p in model.metadata_props if p.key == KEY)
    reported = json.loads(test.value)
    reported["outputs"][0]["values"] = [v + 1 for v in reported["outputs"][0]["values"]]
    test.value = json.dumps(reported)
    onnx.save(model, made.path)
    assert set(run_self_test(made.path).values()) == {False}


def test_integers_that_stock_does_not_keep_are_not_recorded() -> None:
    want = {"order": np.array([3, 1]), "class": np.array([2]), "scores": np.float32([0.5])}
    again = {"order": np.array([1, 3]), "class": np.array([2]), "scores": np.float32([0.4])}
    test = SelfTest.record([], want, noise(want, again))
    assert [o.name for o in test.outputs] == ["class", "scores"]
    assert test.passes({"class": np.array([2]), "scores": np.float32([0.1])})  # 4 times as far
    assert not test.passes({"class": np.array([2]), "scores": np.float32([0.09])})


def test_nan_and_infinity_in_a_weight_are_packed_as_they_are(tmp_path: Path) -> None:
    b = Builder()
    model = b.model(b.conv("x", 32, 3))
    tensor = model.graph.initializer[0]
    w = numpy_helper.to_array(tensor).copy()
    w[w != 0] = np.resize(np.float32([np.nan, np.inf, -np.inf, 1]), (w != 0).sum())
    tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
    made = pack_file(saved(model, tmp_path))
    assert f"{tensor.name} holds NaN or infinity, as in the source" in made.notes
    again = {t.name: t for t in unpack(onnx.load(made.path)).graph.initializer}
    assert numpy_helper.to_array(again[tensor.name]).tobytes() == w.tobytes()
    rounded = pack_file(tmp_path / "other.onnx", tmp_path / "int8.onnx", PackOptions(values="int8"))
    assert any(f"left fp32: {tensor.name}: it holds NaN" in line for line in rounded.notes)


def of_opset_10(*, mode: str) -> ModelProto:
    b = Builder()
    y = b.op(
        "Resize", b.conv(b.conv("x", 32, 3), 12, 32), b.tensor(np.float32([1, 1, 2, 2])), mode=mode
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])
    z = helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 12, 32, 32])
    graph = helper.make_graph(b.nodes, "g", [x], [z], b.tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_an_old_resize_computes_the_same_when_it_is_raised(mode: str, tmp_path: Path) -> None:
    made = pack_file(saved(of_opset_10(mode=mode), tmp_path))
    assert (made.source_opset, made.opset, made.bit_equal) == (10, 18, True)


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_what_the_converter_changed_is_said(
    values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opset, "_state_coordinates_", lambda model: None)
    path = saved(of_opset_10(mode="linear"), tmp_path)
    with pytest.raises(ModelFileError, match=r"converter changed .* from opset 10 to 18.*again"):
        pack_file(path, options=PackOptions(values=values))
    assert not list(tmp_path.glob("*packed*"))


def test_half_weights_name_the_cure(tmp_path: Path) -> None:
    b = Builder()
    w = b.tensor(np.eye(64, dtype=np.float16))
    y = b.op("MatMul", b.op("Cast", "x", to=TensorProto.FLOAT16), w)
    y = b.op("Cast", y, to=TensorProto.FLOAT)
    with pytest.raises(ModelFileError, match="float32 and pack with --values fp16"):
        pack_file(saved(b.model(y, size=64), tmp_path))


def test_a_wrong_answer_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fggp_deploy.exporters import parity

    monkeypatch.setattr(parity, "parity_of", lambda *_, **__: Parity(2e-4, 1e-4))
    with pytest.raises(ModelFileError, match="gives other outputs when packed"):
        pack_file(saved(residual_net(), tmp_path))
    assert not list(tmp_path.glob("*packed*"))


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("dense", "has nothing to pack"),
        ("packed", "is packed already"),
        ("missing", "does not exist"),
        ("garbage", "no ONNX file"),
        ("external", r"lies in '\.\./\.\./etc/passwd'; .* must lie in the same folder"),
        ("itself", "is the source itself"),
        ("half", "belong together"),
        ("channels", "--mean has 1 entries"),
        ("no classifier", "one image input and one output"),
        ("classes", "names 3 classes, the network has 10"),
    ],
)
def test_refusals(how: str, match: str, tmp_path: Path) -> None:
    model, options = residual_net(), {}
    if how == "dense":
        b = Builder()
        model = b.model(b.conv("x", 8, 3, density=1.0))
    elif how == "external":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")
    elif how == "no classifier":
        model = NETS["split"]()
    path = saved(model, tmp_path)
    more: dict[str, Any] = {
        "half": {"mean": MEAN},
        "channels": {"mean": (0.5,), "std": (0.5,)},
        "no classifier": {"mean": MEAN, "std": MEAN},
        "classes": {"mean": MEAN, "std": MEAN, "classes": ("a", "b", "c")},
    }
    options = more.get(how, {})
    if how == "packed":
        path = pack_file(path).path
    elif how == "missing":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"\x08\x07nonsense")
    with pytest.raises(FggpError, match=match) as raised:
        pack_file(path, path if how == "itself" else None, PackOptions(**options))
    assert isinstance(raised.value, ConfigError | ModelFileError)


@pytest.mark.parametrize("values", ["fp16", "int8"])
@pytest.mark.parametrize("name", ["residual", "split"])
def test_rounded_values(tmp_path: Path, name: str, values: str) -> None:
    made = pack_file(saved(NETS[name](), tmp_path), options=PackOptions(values=values))
    assert made.bit_equal
    assert made.rounding is not None
    assert 0 < made.rounding.error < 0.03
    assert made.rounding.n == 16
    assert (made.rounding.n_changed is None) == (name == "split")
    assert set(run_self_test(made.path).values()) == {True}


def a_dead_channel() -> ModelProto:
    """The first convolution's filters 1 and 2 are dead, and give constants."""
    model = residual_net()
    tensor = next(t for t in model.graph.initializer if tuple(t.dims) == (32, 16, 3, 3))
    w = numpy_helper.to_array(tensor).copy()
    w[[1, 2]] = 0
    tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
    skip = next(t for t in model.graph.initializer if tuple(t.dims) == (32, 16, 1, 1))
    w = numpy_helper.to_array(skip).copy()
    w[[1, 2]] = 0
    skip.CopyFrom(numpy_helper.from_array(w, skip.name))
    return model


def test_compaction(tmp_path: Path) -> None:
    source = saved(a_dead_channel(), tmp_path)
    made = pack_file(source, options=PackOptions(compact=True))
    assert made.compaction is not None
    assert made.compaction.n_removed >= 4
    before, after = made.compaction.macs
    assert before is not None
    assert after is not None
    assert after < before
    assert made.error is not None
    assert made.error <= 1e-5
    assert set(run_self_test(made.path).values()) == {True}


def test_compaction_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="so its compaction cannot be checked"):
        pack_file(saved(needs_a_side(18), tmp_path), options=PackOptions(compact=True))


def a_test() -> dict[str, Any]:
    y = np.linspace(-3, 5, 1000, dtype=np.float32).reshape(10, 100)
    made = SelfTest.record([Input("x", "float32", (2, 3))], {"y": y}, {})
    assert made.passes({"y": y})
    assert not made.passes({"y": y + 1})
    assert not made.passes({"y": y.T})
    return json.loads(json.dumps(made.to_dict()))


def test_the_self_test_comes_back() -> None:
    d = a_test()
    again = SelfTest.from_dict(d)
    assert json.loads(json.dumps(again.to_dict())) == d
    assert len(again.outputs[0].at) == 64
    assert again.feeds()["x"].shape == (2, 3)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["seed", "inputs", "outputs", "rtol", "atol", "logits"]),
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "shape", "at", "values", "dtype", "range"]), inner
            )
        ),
        max_leaves=8,
    ),
)
def test_a_damaged_self_test_is_one_error(key: str, value: Any) -> None:
    with contextlib.suppress(ModelFileError):
        SelfTest.from_dict(a_test() | {key: value})
