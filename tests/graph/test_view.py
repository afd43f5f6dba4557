"""One view of a graph: constants, producers and readers; attributes; multiply-accumulates."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import residual_net
from onnx import TensorProto, helper, numpy_helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.graph.constants import lift_constants_, overridable, required_inputs
from fggp_deploy.graph.macs import layer_macs, model_macs
from fggp_deploy.graph.nodes import attribute, attributes, integers, set_attribute_
from fggp_deploy.graph.opset import drop_opsets_
from fggp_deploy.graph.view import GraphView, Use
from fggp_deploy.graph.weights import untransposed

PADDED = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=2)


def small_graph():
    """x → Relu → a → (Neg → b, Add(a, c, given) → y); c is a Constant node's."""
    value = helper.make_tensor_value_info
    floats = [1.0, 2.0]
    return helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=helper.make_tensor("", 1, [2], floats)),
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Neg", ["a"], ["b"]),
            helper.make_node("Sum", ["a", "c", "given", "d", "b"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [2]), value("given", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), n) for n in ("given", "d")],
    )


def test_what_is_constant() -> None:
    view = GraphView(small_graph())
    assert set(view.constants) == {"c", "d"}  # "given" is only a default
    np.testing.assert_array_equal(view.constant("c"), [1, 2])
    assert view.constant("a") is None
    assert list(view.initializers) == ["given", "d"]
    assert overridable(view.graph) == {"given"}
    assert [v.name for v in required_inputs(view.graph)] == ["x"]


def test_every_name_is_taken() -> None:
    graph = small_graph()
    graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "unread"))
    assert GraphView(graph).names == {"x", "given", "c", "a", "b", "d", "y", "unread"}


def test_a_transposed_value_comes_from_another() -> None:
    graph = small_graph()
    graph.node.append(helper.make_node("Transpose", ["d"], ["t"]))
    view = GraphView(graph)
    assert [untransposed(view, name) for name in ("t", "d", "b")] == ["d", "d", "b"]


def test_who_makes_and_reads_a_value() -> None:
    view = GraphView(small_graph())
    assert view.producers["b"].op_type == "Neg"
    assert "x" not in view.producers
    assert [n.op_type for n in view.readers("a")] == ["Neg", "Sum"]
    assert view.uses["d"] == [Use(view.producers["y"], 3)]
    assert view.only_reader("b") == view.producers["y"]
    assert view.only_reader("a") is None  # two nodes read it
    assert view.readers("y") == []
    assert view.only_reader("y") is None


def test_a_subgraph_reads_from_outside() -> None:
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])
    inner = helper.make_graph([helper.make_node("Neg", ["a"], ["z"])], "then", [], [value])
    graph = small_graph()
    graph.node.append(helper.make_node("If", ["x"], ["r"], then_branch=inner, else_branch=inner))
    assert {"a", "y"} <= GraphView(graph).read_outside


def test_constant_nodes_become_initializers_but_not_outputs() -> None:
    graph = small_graph()
    lift_constants_(graph)
    assert [n.op_type for n in graph.node] == ["Relu", "Neg", "Sum"]
    assert {t.name for t in graph.initializer} == {"given", "d", "c"}
    kept = small_graph()
    kept.output[0].name = "c"
    lift_constants_(kept)
    assert kept.node[0].op_type == "Constant"


def test_attributes_by_name() -> None:
    assert attributes(PADDED) == {"pads": [1, 1, 1, 1], "group": 2}
    assert attribute(PADDED, "group", 1) == 2
    assert attribute(PADDED, "strides", [1, 1]) == [1, 1]
    assert integers(PADDED, "pads") == (1, 1, 1, 1)
    with pytest.raises(ModelFileError, match="must have an attribute dilations of integers"):
        integers(PADDED, "dilations")
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=1)
    set_attribute_(node, "group", 4)
    set_attribute_(node, "pads", [0, 0])
    assert attributes(node) == {"group": 4, "pads": [0, 0]}


@pytest.mark.parametrize(
    ("node", "shapes", "macs"),
    [
        (PADDED, {"y": (1, 4, 5, 5), "w": (4, 3, 3, 3)}, 100 * 27),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]),
         {"x": (1, 3, 2, 2), "w": (3, 4, 2, 2)}, 12 * 16),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), {"y": (2, 5), "w": (5, 7)}, 70),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), {"y": (2, 5), "w": (7, 5)}, 70),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"y": (2, 3, 5), "w": (2, 7, 5)}, 210),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"y": (2, 3), "w": (7,)}, 42),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"y": (2, None), "w": (7, 5)}, None),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"w": (7, 5)}, None),
        (helper.make_node("Relu", ["x"], ["y"]), {"y": (2, 3)}, None),
    ],
)  # fmt: skip
def test_multiply_accumulates_of_a_layer(node, shapes, macs) -> None:
    assert layer_macs(node, shapes) == macs


def test_operator_sets_are_dropped_by_domain() -> None:
    opsets = [helper.make_opsetid(domain, 1) for domain in ("a", "", "b", "a")]
    model = helper.make_model(small_graph(), opset_imports=opsets)
    drop_opsets_(model, ("a", "c"))
    assert [o.domain for o in model.opset_import] == ["", "b"]


def test_multiply_accumulates_of_a_network() -> None:
    per_image = 16 * 16 * (16 * 27 + 2 * 16 * 144) + 4 * 4 * (32 * 16 + 32 * 144) + 10 * 32
    assert model_macs(residual_net()) == per_image
