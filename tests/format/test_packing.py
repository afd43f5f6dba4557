"""Packing a graph changes its size and nothing else, under ORT and every other tool."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.functions import DOMAIN
from fggp_deploy.format.packing import flatten, pack
from fggp_deploy.format.unpacking import unpack

pytestmark = pytest.mark.usefixtures("shapes_in_process")

X = helper.make_tensor_value_info("input", 1, ["batch", 8, 12, 12])
Y = helper.make_tensor_value_info("logits", 1, ["a", "b"])


def weight(name: str, *shape: int, density: float = 0.05) -> onnx.TensorProto:
    rng = np.random.default_rng(len(name) + sum(shape))
    w = rng.standard_normal(shape).astype(np.float32)
    w[rng.random(shape) > density] = 0
    return numpy_helper.from_array(w, name)


def model(nodes: list, weights: list, *, opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [X], [Y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(op: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"{op}_{output}", **attributes)


def every_kind() -> onnx.ModelProto:
    return model(
        [
            node("Conv", "input a.weight", "a", pads=[1] * 4, strides=[2, 2], auto_pad="NOTSET"),
            node("Relu", "a", "ra"),
            node("Conv", "ra b.weight", "b", pads=[1] * 4, group=2),
            node("Conv", "b c.weight c.bias", "c", pads=[2] * 4, dilations=[2, 2], group=2),
            node("Add", "c ra", "d"),
            node("ReduceMean", "d axes", "e", keepdims=0),
            node("Gemm", "e fc.weight fc.bias", "f", transB=1),
            node("MatMul", "f mm.weight", "logits"),
        ],
        [
            weight("a.weight", 64, 8, 3, 3),
            weight("b.weight", 64, 32, 3, 3, density=0.4),
            weight("c.weight", 64, 32, 3, 3, density=0.002),
            weight("c.bias", 64, density=1),
            weight("fc.weight", 100, 64),
            weight("fc.bias", 100, density=1),
            weight("mm.weight", 100, 90),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )


def run(m: onnx.ModelProto, batch: int = 3, optimized: str = "") -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = optimized
    x = np.random.default_rng(batch).standard_normal((batch, 8, 12, 12)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        m.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"input": x})[0]


def ops(m: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in m.graph.node]


def stored(m: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in m.graph.initializer}


def test_operators_and_names():
    packed = pack(every_kind())
    assert ops(packed) == [
        "Unmask",
        "SparseConv",
        "Relu",
        "Conv",
        "SparseConv",
        "Add",
        "ReduceMean",
        "SparseGemm",
        "SparseGemm",
    ]
    assert {"a.weight.values", "a.weight.gaps", "b.weight.bits", "zeros.90"} <= stored(
        packed
    ).keys()
    assert packed.graph.node[1].name == "Conv_a"
    assert stored(packed)["c.weight.gaps"].dtype == np.uint16


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("form", ["packed", "flat", "unpacked", "flat_unpacked"])
def test_ort_gives_the_same_bits(form, batch):
    m = every_kind()
    packed = pack(m)
    forms = {
        "packed": lambda: packed,
        "flat": lambda: flatten(packed),
        "unpacked": lambda: unpack(packed),
        "flat_unpacked": lambda: unpack(flatten(packed)),
    }
    assert run(forms[form](), batch).tobytes() == run(m, batch).tobytes()


def test_ort_folds_the_functions_away(tmp_path):
    run(pack(every_kind()), optimized=str(tmp_path / "o.onnx"))
    left = set(ops(onnx.load(tmp_path / "o.onnx")))
    assert left <= {"Conv", "ReorderInput", "ReorderOutput", "ReduceMean", "Gemm", "Relu", "Add"}


@pytest.mark.parametrize("flat", [False, True])
def test_every_tool_accepts_it(flat):
    m = pack(every_kind())
    m = flatten(m) if flat else m
    onnx.checker.check_model(m, full_check=True)
    version_converter.convert_version(m, 20)
    onnx_ir.serde.serialize_model(onnx_ir.serde.deserialize_model(m))
    x = np.random.default_rng(3).standard_normal((3, 8, 12, 12)).astype(np.float32)
    got = ReferenceEvaluator(m).run(None, {"input": x})[0]
    assert np.allclose(got, run(every_kind()), atol=1e-4)


def test_unpack_restores_the_graph_and_the_weights():
    m = every_kind()
    for packed in (pack(m), flatten(pack(m))):
        back = unpack(packed)
        assert ops(back) == [*ops(m)[:-1], "Gemm"]
        assert not back.functions
        assert {o.domain for o in back.opset_import} == {""}
        for name, w in stored(m).items():
            expected = w.T if name == "mm.weight" else w
            assert np.array_equal(stored(back)[name], expected), name


def test_a_model_that_would_not_shrink_is_only_copied():
    m = model([node("Conv", "input w", "logits")], [weight("w", 4, 8, 1, 1)])
    assert pack(m) == m


def test_shared_weight():
    nodes = [
        node("Conv", "input w.weight", "a", pads=[1] * 4),
        node("Conv", "a w.weight", "logits", pads=[2] * 4, dilations=[2, 2]),
    ]
    m = model(nodes, [weight("w.weight", 8, 8, 3, 3)])
    m.graph.initializer[0].CopyFrom(weight("w.weight", 8, 8, 3, 3, density=0.02))
    big = model(nodes, [*m.graph.initializer, weight("unused", 300, 300)])
    packed = pack(big)
    assert ops(packed)[-2:] == ["SparseConv", "SparseConv"] or "Conv" in ops(packed)
    assert run(packed).tobytes() == run(big).tobytes() == run(unpack(packed)).tobytes()


def test_shared_by_gemm_and_matmul_is_decoded_once():
    nodes = [
        node("ReduceMean", "input axes", "m", keepdims=0),
        node("MatMul", "m up", "u"),
        node("Gemm", "u w", "g", transB=1),
        node("MatMul", "g w", "logits"),
    ]
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    m = model(nodes, [axes, weight("up", 8, 90, density=1), weight("w", 90, 90)])
    packed = pack(m)
    assert ops(packed) == ["Ungap", "ReduceMean", "MatMul", "Gemm", "MatMul"]
    assert run(packed).tobytes() == run(m).tobytes() == run(unpack(packed)).tobytes()


ODD = {
    "auto_pad": node("Conv", "input w", "logits", auto_pad="SAME_UPPER"),
    "gemm_alpha": node("Gemm", "m w", "logits", transB=1, alpha=2.0),
    "weight_on_the_left": node("MatMul", "w m", "logits"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_uses_keep_their_operator(case):
    conv = case == "auto_pad"
    w = weight("w", 64, 8, 3, 3) if conv else weight("w", 80, 80)
    nodes = [ODD[case]]
    init = [w]
    if not conv:
        square = node("Reshape", "input dims", "m")
        nodes = [square, *nodes]
        init.append(numpy_helper.from_array(np.array([-1, 80]), "dims"))
    if case == "weight_on_the_left":
        init[1] = numpy_helper.from_array(np.array([80, -1]), "dims")
    m = model(nodes, init)
    packed = pack(m)
    assert ops(packed) == ["Ungap", *ops(m)]
    batch = 5  # 5·8·12·12 = 72·80
    assert run(packed, batch).tobytes() == run(m, batch).tobytes()


def test_rank_three_matmul_stays_right():
    nodes = [node("Reshape", "input dims", "r"), node("MatMul", "r w", "logits")]
    dims = numpy_helper.from_array(np.array([0, 8, 144]), "dims")
    m = model(nodes, [dims, weight("w", 144, 60)])
    packed = pack(m)
    assert ops(packed) == ["Reshape", "SparseGemm"]
    for form in (packed, flatten(packed), unpack(packed), unpack(flatten(packed))):
        assert np.allclose(run(form), run(m), rtol=1e-5, atol=1e-6)


def test_older_opset_is_converted():
    m = model([node("Conv", "input w", "logits")], [weight("w", 64, 8, 3, 3)], opset=13)
    packed = pack(m)
    assert ops(packed) == ["SparseConv"]
    assert run(packed).tobytes() == run(m).tobytes()


def test_packing_twice_is_refused():
    with pytest.raises(ModelFileError, match="already"):
        pack(pack(every_kind()))


def replaced(part: str, array: np.ndarray) -> onnx.ModelProto:
    m = pack(every_kind())
    (tensor,) = [t for t in m.graph.initializer if t.name == part]
    tensor.CopyFrom(numpy_helper.from_array(array, part))
    return m


def with_shape(*shape: int) -> onnx.ModelProto:
    m = pack(every_kind())
    (attribute,) = [a for a in m.graph.node[1].attribute if a.name == "weight_shape"]
    attribute.CopyFrom(helper.make_attribute("weight_shape", shape))
    return m


def other_body() -> onnx.ModelProto:
    m = pack(every_kind())
    m.functions[0].node[3].op_type = "Identity"
    return m


def external() -> onnx.ModelProto:
    m = pack(every_kind())
    t = m.graph.initializer[0]
    t.data_location = onnx.TensorProto.EXTERNAL
    t.external_data.add(key="location", value="../../etc/passwd")
    return m


def unknown_op() -> onnx.ModelProto:
    m = pack(every_kind())
    m.graph.node[1].op_type = "Region_9"
    return m


HOSTILE = {
    "gaps_overflow": lambda: replaced("a.weight.gaps", np.full(9999, 255, np.uint8)),
    "gaps_type": lambda: replaced("a.weight.gaps", np.ones(3, np.int64)),
    "values_scalar": lambda: replaced("a.weight.values", np.float32(1)),
    "negative_shape": lambda: with_shape(-64, -8, 3, 3),
    "huge_shape": lambda: with_shape(2**40, 2**40, 3, 3),
    "large_shape": lambda: with_shape(2**14, 2**14, 3, 3),
    "other_body": other_body,
    "external": external,
    "unknown_op": unknown_op,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case):
    with pytest.raises(ModelFileError):
        unpack(HOSTILE[case]())


def test_domain_is_the_documented_one():
    assert DOMAIN == "ai.fggp"
