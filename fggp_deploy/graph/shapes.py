"""Shapes of the values of a graph, as ONNX infers them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import GraphProto, ModelProto

from fggp_deploy.common.confined import GRAPH_PASS, confined
from fggp_deploy.graph.constants import initializers, required_inputs, without_defaults
from fggp_deploy.graph.reading import reading

Shapes = dict[str, tuple[int | None, ...]]


def one_image(model: ModelProto) -> ModelProto:
    """The model with a batch of one if its batch is open, so that shapes are those of one image."""
    single = ModelProto()
    single.CopyFrom(model)
    fix_open_sides_(single, {0: 1})
    return single


def fix_open_sides_(model: ModelProto, sides: Mapping[int, int]) -> None:
    """Fix the open dimensions of the inputs, by position; remove the shapes of other values."""
    for value in required_inputs(model.graph):
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if i in sides and dim.dim_value < 1:
                dim.dim_value = sides[i]
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def inferred(model: ModelProto) -> GraphProto:
    """Inputs, inner values and outputs of the graph with the types and shapes that ONNX infers.

    ONNX works in a child process, since it can crash. Raises ModelFileError.
    """

    def work() -> bytes:
        with reading("the graph"):
            full = onnx.shape_inference.infer_shapes(model).graph
        values = GraphProto(input=full.input, value_info=full.value_info, output=full.output)
        content: bytes = values.SerializeToString()
        return content

    return GraphProto.FromString(confined(work, what="ONNX shape inference", limits=GRAPH_PASS))


def infer_shapes(model: ModelProto) -> Shapes:
    """Shapes that ONNX infers, by tensor name; None for a side that is not a number."""
    graph = inferred(without_defaults(model))
    shapes: Shapes = {n: tuple(t.dims) for n, t in initializers(model.graph).items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(
                d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim
            )
    return shapes
