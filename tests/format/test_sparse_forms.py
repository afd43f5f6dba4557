"""Every way in which a graph may use a weight: packed or left dense with a reason, never wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from fggp_deploy.format.functions import DOMAIN
from fggp_deploy.format.packing import REPLACEABLE, Packing, flatten, pack
from fggp_deploy.format.unpacking import unpack

pytestmark = pytest.mark.usefixtures("shapes_in_process")

BATCH = 3


def tensor(name: str, *shape: int, density: float = 0.05) -> onnx.TensorProto:
    rng = np.random.default_rng(sum(shape))
    w = rng.standard_normal(shape).astype(np.float32)
    w[rng.random(shape) > density] = 0
    return numpy_helper.from_array(w, name)


def constant(name: str, values: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values), name)


def node(op: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"{op}_{output}", **attributes)


@dataclass
class Case:
    """Nodes from `input` [BATCH, *shape] to `y`; `ops`: what they are once packed."""

    nodes: list
    tensors: list
    ops: list[str]
    shape: tuple[int, ...] = (8, 12, 12)
    left_dense: dict[str, str] = field(default_factory=dict)

    def model(self, opset: int = 18) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("input", 1, [BATCH, *self.shape])],
            [helper.make_tensor_value_info("y", 1, None)],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return onnx.shape_inference.infer_shapes(model)


def inner_graph(name: str, op: str) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(f"{name}.y", 1, None)
    own = [tensor(f"{name}.w", 90, 90)]
    return helper.make_graph(
        [helper.make_node(op, ["input", f"{name}.w"], [f"{name}.m"]),
         helper.make_node("MatMul", [f"{name}.m", "w"], [f"{name}.y"])],
        name, [], [output], own,
    )  # fmt: skip


W1 = tensor("w", 64, 8, 3, 3)
SQUARE = tensor("w", 90, 90)
CASES = {
    "conv": Case([node("Conv", "input w", "y")], [W1], ["SparseConv"]),
    "strided_dilated": Case(
        [node("Conv", "input w", "y", strides=[2, 1], dilations=[1, 2], pads=[1, 0, 2, 3])],
        [W1],
        ["SparseConv"],
    ),
    "grouped": Case(
        [node("Conv", "input w", "y", group=2)], [tensor("w", 128, 4, 3, 3)], ["SparseConv"]
    ),
    "depthwise": Case(
        [node("Conv", "input w", "y", group=64)],
        [tensor("w", 128, 1, 5, 5)],
        ["SparseConv"],
        (64, 9, 9),
    ),
    "auto_pad": Case(
        [node("Conv", "input w", "y", auto_pad="SAME_UPPER")], [W1], ["Ungap", "Conv"]
    ),
    "conv_1d": Case(
        [node("Conv", "input w", "y")], [tensor("w", 64, 8, 9)], ["Ungap", "Conv"], (8, 40)
    ),
    "conv_3d": Case(
        [node("Conv", "input w", "y")], [tensor("w", 16, 8, 3, 3, 3)], ["Ungap", "Conv"],
        (8, 5, 6, 7),
    ),
    "transposed_conv": Case(
        [node("ConvTranspose", "input w", "y", strides=[2, 2], output_padding=[1, 1])],
        [tensor("w", 8, 64, 3, 3)],
        ["Ungap", "ConvTranspose"],
    ),
    "grouped_transposed_conv": Case(
        [node("ConvTranspose", "input w", "y", group=4)],
        [tensor("w", 8, 64, 3, 3)],
        ["Ungap", "ConvTranspose"],
    ),
    "gemm": Case(
        [node("Gemm", "input w b", "y", transB=1)],
        [tensor("w", 70, 90), tensor("b", 70, density=1)],
        ["SparseGemm"],
        (90,),
    ),
    "gemm_not_transposed": Case(
        [node("Gemm", "input w b", "y")],
        [tensor("w", 90, 70), tensor("b", 70, density=1)],
        ["SparseGemm"],
        (90,),
    ),
    "gemm_bias_matrix": Case(
        [node("Gemm", "input w b", "y", transB=1)],
        [tensor("w", 70, 90), tensor("b", 1, 70, density=1)],
        ["Ungap", "Gemm"],
        (90,),
        {"b": "0.0% zeros, dense is no larger"},
    ),
    "gemm_alpha": Case(
        [node("Gemm", "input w", "y", transB=1, alpha=2.0)], [SQUARE], ["Ungap", "Gemm"], (90,)
    ),
    "matmul": Case([node("MatMul", "input w", "y")], [SQUARE], ["SparseGemm"], (5, 90)),
    "matmul_with_bias": Case(
        [node("MatMul", "input w", "m"), node("Add", "b m", "y")],
        [tensor("w", 90, 70), tensor("b", 70, density=1)],
        ["SparseGemm"],
        (5, 90),
    ),
    "matmul_read_twice": Case(
        [node("MatMul", "input w", "m"), node("Add", "m b", "a"), node("Mul", "m a", "y")],
        [tensor("w", 90, 70), tensor("b", 70, density=1)],
        ["SparseGemm", "Add", "Mul"],
        (5, 90),
    ),
    "matmul_bitmask_keeps_its_orientation": Case(
        [node("MatMul", "input w", "y")],
        [tensor("w", 90, 70, density=0.5)],
        ["Unmask", "MatMul"],
        (5, 90),
    ),
    "weight_on_the_left": Case(
        [node("MatMul", "w input", "y")], [SQUARE], ["Ungap", "MatMul"], (90, 4)
    ),
    "batch_of_matrices": Case(
        [node("MatMul", "input w", "y")], [tensor("w", 6, 30, 40)], ["Ungap", "MatMul"], (6, 4, 30)
    ),
    "transpose_before_matmul": Case(
        [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "input t", "y")],
        [tensor("w", 70, 90)],
        ["SparseGemm"],
        (5, 90),
    ),
    "transpose_of_a_shared_weight": Case(
        [node("Transpose", "w", "t"), node("MatMul", "input t", "m"), node("MatMul", "m w", "y")],
        [SQUARE],
        ["Ungap", "Transpose", "MatMul", "MatMul"],
        (5, 90),
    ),
    "constant_node": Case(
        [
            helper.make_node("Constant", [], ["w"], value=tensor("unnamed", 64, 8, 3, 3)),
            node("Conv", "input w", "y"),
        ],
        [],
        ["SparseConv"],
    ),
    "shared_by_two_convs": Case(
        [node("Conv", "input w", "a", pads=[1] * 4), node("Conv", "a w", "b", dilations=[2, 2]),
         node("Concat", "a a", "c", axis=1), node("Conv", "b w", "y")],
        [tensor("w", 32, 32, 3, 3)],
        ["SparseConv", "SparseConv", "Concat", "SparseConv"],
        (32, 12, 12),
    ),
    "shared_by_conv_and_transposed_conv": Case(
        [node("Conv", "input w", "a"), node("ConvTranspose", "a w", "y")],
        [tensor("w", 32, 32, 3, 3)],
        ["Ungap", "Conv", "ConvTranspose"],
        (32, 12, 12),
    ),
    "tied_embedding": Case(
        [node("Cast", "input", "i", to=7), node("Gather", "w i", "e"), node("MatMul", "e u", "m"),
         node("Transpose", "w", "t"), node("MatMul", "m t", "y")],
        [tensor("w", 50, 90), tensor("u", 90, 90)],
        ["Ungap", "Cast", "Gather", "SparseGemm", "Transpose", "MatMul"],
        (4,),
    ),
    "recurrent": Case(
        [helper.make_node("LSTM", ["input", "w", "r"], ["", "y"], hidden_size=20)],
        [tensor("w", 1, 80, 30), tensor("r", 1, 80, 20)],
        ["Ungap", "Ungap", "LSTM"],
        (4, 30),
    ),
    "a_weight_is_an_output": Case([node("Identity", "w", "y")], [SQUARE], ["Ungap", "Identity"]),
    "inside_and_outside_a_branch": Case(
        [node("ReduceMax", "input", "s", keepdims=0), node("Cast", "s", "c", to=9),
         helper.make_node("If", ["c"], ["y"], then_branch=inner_graph("then", "MatMul"),
                          else_branch=inner_graph("else", "MatMul"))],
        [SQUARE],
        ["Ungap", "ReduceMax", "Cast", "If"],
        (90,),
        dict.fromkeys(("then.w", "else.w"), "it belongs to a subgraph of If"),
    ),
    "double_precision": Case(
        [node("Cast", "input", "d", to=11), node("MatMul", "d v", "m"),
         node("Cast", "m", "f", to=1), node("MatMul", "f w", "y")],
        [numpy_helper.from_array(np.eye(90), "v"), SQUARE],
        ["Cast", "MatMul", "Cast", "SparseGemm"],
        (5, 90),
        {"v": "it is double; only float32 is packed, convert it to float32"},
    ),
    "dense_and_sparse": Case(
        [node("Conv", "input v", "a"), node("Conv", "a w", "y")],
        [tensor("v", 8, 8, 3, 3, density=1), W1],
        ["Conv", "SparseConv"],
        left_dense={"v": "0.0% zeros, dense is no larger"},
    ),
}  # fmt: skip


def ops(m: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in m.graph.node]


def run(m: onnx.ModelProto, shape: tuple[int, ...]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        m.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).uniform(0, 40, (BATCH, *shape)).astype(np.float32)
    return session.run(None, {"input": x})[0]


def grown(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with a large sparse weight that nobody reads, so that packing pays in all."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    out.graph.initializer.append(tensor("unread", 100, 100))
    return out


@pytest.mark.parametrize("case", CASES)
def test_use(case):
    c = CASES[case]
    model = grown(c.model())
    packing = Packing.of(model)
    kept = [n.op_type for n in packing.model.graph.node if n.output[0] != "unread"]
    assert kept == c.ops
    assert packing.left_dense == c.left_dense
    onnx.checker.check_model(packing.model, full_check=True)
    expected = run(model, c.shape)
    assert np.abs(expected).max() > 0
    for form in (packing.model, flatten(packing.model)):
        assert run(form, c.shape).tobytes() == expected.tobytes()
        back = unpack(form)
        assert not any(n.domain == DOMAIN for n in back.graph.node)
        # a MatMul comes back transposed, and then its sums may be taken in another order
        assert np.allclose(run(back, c.shape), expected, rtol=1e-5, atol=1e-5 * expected.max())


@pytest.mark.parametrize("opset", [18, 19, 21, 22])
@pytest.mark.parametrize("case", ["grouped", "conv_1d", "matmul_with_bias", "gemm"])
def test_newer_opsets(case, opset):
    c = CASES[case]
    model = grown(c.model(opset))
    packed = pack(model)
    assert {o.version for o in packed.opset_import if not o.domain} == {opset}
    expected = run(model, c.shape).tobytes()
    assert run(packed, c.shape).tobytes() == run(flatten(packed), c.shape).tobytes() == expected


def test_an_initializer_that_callers_may_override_stays():
    model = grown(CASES["conv"].model())
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [64, 8, 3, 3]))
    packing = Packing.of(model)
    assert packing.left_dense == {"w": REPLACEABLE}
    assert "Conv" in ops(packing.model)


def test_a_model_that_would_grow_says_so():
    model = CASES["conv"].model()
    del model.graph.initializer[:]
    model.graph.initializer.append(tensor("w", 4, 8, 3, 3, density=0.2))
    packing = Packing.of(model)
    assert packing.model == model
    assert packing.left_dense == {"w": "the file as a whole would be no smaller"}
