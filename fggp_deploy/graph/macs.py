"""Counting the multiply-accumulates of convolutions and linear layers, zeros included."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from onnx import ModelProto, NodeProto

from fggp_deploy.graph.constants import initializers
from fggp_deploy.graph.nodes import attribute
from fggp_deploy.graph.shapes import infer_shapes, one_image

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

Shape = Sequence[int | None]  # None for a size that is not known


def multiply_accumulates(elements: Shape, dot_product: Shape) -> int | None:
    """How many dot products of this shape `elements` take; None if a size is not known."""
    known = [d for d in (*elements, *dot_product) if d is not None]
    return math.prod(known) if len(known) == len(elements) + len(dot_product) else None


def layer_macs(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Elements of the output times the length of each one's dot product.

    None for a node that is not one of `LAYERS`, and if a shape is not known. A transposed
    convolution spreads each element of its input over outputs, so its input is counted.
    """
    if node.op_type not in LAYERS or len(node.input) < 2:
        return None
    counted = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
    elements, weight = shapes.get(counted), shapes.get(node.input[1])
    if elements is None or not weight:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        dot_product = weight[1:]
    else:
        dot_product = weight[-1:] if attribute(node, "transB", 0) else weight[-2:][:1]
    return multiply_accumulates(elements, dot_product)


def total_macs(nodes: Iterable[NodeProto], shapes: Mapping[str, Shape]) -> int | None:
    """The sum of `layer_macs` over the nodes; None if it is None for one of them."""
    counts = [layer_macs(node, shapes) for node in nodes]
    known = [n for n in counts if n is not None]
    return sum(known) if len(known) == len(counts) else None


def model_macs(model: ModelProto) -> int | None:
    """The multiply-accumulates for one image, over layers whose weight is an initializer.

    None if a shape is not known.
    """
    stored = initializers(model.graph).keys()
    layers = [n for n in model.graph.node if n.op_type in LAYERS and stored & {*n.input[1:2]}]
    return total_macs(layers, infer_shapes(one_image(model)))
