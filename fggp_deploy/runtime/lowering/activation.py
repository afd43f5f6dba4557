"""Activations.

To add one: a kind in kernels/program.py, what csrc/isa/activation.h lists, and a case here. An
activation that is exported as several nodes also needs a match of them in `lowering/fusion.py`.
"""

from __future__ import annotations

from onnx import NodeProto

from fggp_deploy.kernels.program import ADD, RELU, Activation, Step, clamp
from fggp_deploy.runtime.lowering.layer import LoweredLayer, Matcher
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph

INFINITY = float("inf")


def activation_of(node: NodeProto, g: ShapedGraph) -> Activation | None:
    """The activation that a node applies to its first input; None for any other node."""
    if node.op_type == "Relu":
        return RELU
    return _clip(node, g) if node.op_type == "Clip" else None


def _clip(node: NodeProto, g: ShapedGraph) -> Activation | None:
    """None if a limit is computed."""
    if node.attribute:
        return None
    limits = [-INFINITY, INFINITY]
    for i, name in enumerate(node.input[1:3]):
        if name:
            value = g.constant(name)
            if value is None or value.size != 1:
                return None
            limits[i] = float(value.reshape(-1)[0])
    return clamp(limits[0], limits[1])


def alone(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """An activation that could not be fused into the layer before it."""
    x = node.input[0]
    activation = activation_of(node, g)
    if activation is None or len(g.shape(x)) not in (2, 3, 4) or x in g.constants:
        return None
    return LoweredLayer.of(node, Step(ADD, activation=activation))


MATCHERS: dict[str, Matcher] = {"Clip": alone, "Relu": alone}
