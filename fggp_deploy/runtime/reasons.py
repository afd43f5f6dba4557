"""Explains to users why the kernels cannot be used for a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import ModelProto, NodeProto

from fggp_deploy.graph.view import GraphView
from fggp_deploy.graph.weights import layer_weights

NO_LAYER_FITS = "the kernels can compute none of its layers at these sizes"


def why_no_layer(model: ModelProto, shapes: Mapping[str, Sequence[object]]) -> str:
    """Why the kernels can compute no layer of a graph of standard operators.

    `shapes` holds what is known of the shapes of float values.
    """
    view = GraphView(model.graph)
    readers = layer_weights(view.graph, view.initializers)
    if not readers:
        return "it has no convolution or linear layer with a constant weight"
    unknown = [n for nodes in readers.values() for n in nodes if not shapes.get(n.input[0])]
    if unknown and (source := _where_shapes_end(view, shapes, unknown[0].input[0])):
        return (
            f"the shapes behind {source.op_type} {source.output[0]!r:.60} are not known; export "
            "the network with fixed sizes"
        )
    return "it has no layer that the kernels know"


def _where_shapes_end(
    view: GraphView, shapes: Mapping[str, Sequence[object]], value: str
) -> NodeProto | None:
    """The node before `value` whose output has no known shape although its input has."""
    node = view.producers.get(value)
    while node is not None and node.input and not shapes.get(node.input[0]):
        before = view.producers.get(node.input[0])
        if before is None:
            break
        node = before
    return node
