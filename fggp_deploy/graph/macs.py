"""Counting the multiply-accumulates of convolutions and linear layers, zeros included."""

from __future__ import annotations

import math

from onnx import ModelProto, NodeProto

from fggp_deploy.graph.nodes import attribute
from fggp_deploy.graph.shapes import Shapes, infer_shapes, one_image

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def layer_macs(node: NodeProto, shapes: Shapes) -> int | None:
    """Elements of the output times the length of each one's dot product.

    None for an operator that is not in `LAYERS`, and if a shape is not known. A transposed
    convolution spreads each element of its input over outputs, so its input is counted.
    """
    if node.op_type not in LAYERS:
        return None
    counted = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
    elements, weight = shapes.get(counted), shapes.get(node.input[1])
    if elements is None or not weight:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        dot_product = weight[1:]
    else:
        dot_product = weight[-1:] if attribute(node, "transB", 0) else weight[-2:][:1]
    known = [d for d in (*elements, *dot_product) if d is not None]
    return math.prod(known) if len(known) == len(elements) + len(dot_product) else None


def model_macs(model: ModelProto) -> int | None:
    """The multiply-accumulates for one image, over layers whose weight is an initializer.

    None if a shape is not known.
    """
    shapes = infer_shapes(one_image(model))
    stored = {t.name for t in model.graph.initializer}
    counts = [
        layer_macs(node, shapes)
        for node in model.graph.node
        if node.op_type in LAYERS and node.input[1] in stored
    ]
    return None if None in counts else sum(n for n in counts if n is not None)
