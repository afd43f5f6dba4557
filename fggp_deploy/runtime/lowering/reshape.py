"""Planes to vectors: Flatten, and a Reshape that does the same."""

from __future__ import annotations

import math

from onnx import NodeProto

from fggp_deploy.graph.nodes import attributes
from fggp_deploy.kernels.program import FLATTEN, Step
from fggp_deploy.runtime.lowering.layer import LoweredLayer, Matcher
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph


def flatten(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """A Flatten of everything but the batch."""
    if attributes(node).get("axis", 1) != 1 or len(g.shape(node.input[0])) not in (2, 4):
        return None
    return LoweredLayer.of(node, Step(FLATTEN))


def reshape(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """A Reshape to [N, -1]."""
    constant = g.constant(node.input[1])
    if constant is None or constant.size != 2:
        return None
    first, rest = (int(d) for d in constant)
    if first == 0 and attributes(node).get("allowzero", 0):  # then 0 means an empty tensor
        return None
    known = g.shape(node.input[0])
    if len(known) not in (2, 4):
        return None
    batch = known[0]
    per_image = math.prod(known[1:])  # 0 if a dimension is not known
    keeps_batch = first == 0 or (batch > 0 and first == batch)
    keeps_rest = per_image > 0 and rest == per_image
    if not (keeps_batch and rest == -1) and not (keeps_rest and (keeps_batch or first == -1)):
        return None
    return LoweredLayer.of(node, Step(FLATTEN))


MATCHERS: dict[str, Matcher] = {"Flatten": flatten, "Reshape": reshape}
