"""Sums of two values."""

from __future__ import annotations

from onnx import NodeProto

from fggp_deploy.kernels.program import ADD, Step
from fggp_deploy.runtime.lowering.layer import LoweredLayer, Matcher
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph


def add(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """A sum that could not be fused into a convolution."""
    a, b = node.input
    if a in g.constants or not can_add(a, b, g):
        return None
    return LoweredLayer([node], [a, b], node.output[0], [Step(ADD)])


def can_add(a: str, b: str, g: ShapedGraph) -> bool:
    """Whether two values have one shape: the kernels do not broadcast."""
    return b not in g.constants and g.same_shape(a, b) and len(g.shape(a)) in (2, 3, 4)


MATCHERS: dict[str, Matcher] = {"Add": add}
