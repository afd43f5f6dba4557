"""Convolutions, and batch norms that could not be folded into one."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from fggp_deploy.graph.nodes import attributes
from fggp_deploy.kernels.program import CONV, Step
from fggp_deploy.runtime.lowering.layer import Array, LoweredLayer, Matcher
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph
from fggp_deploy.runtime.lowering.window import Window


def conv(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """A two-dimensional convolution with a constant weight."""
    weight = g.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim != 4:
        return None
    a = attributes(node)
    window = Window.of(a, weight.shape[2:])
    bias: Array | None = np.zeros(weight.shape[0], np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = g.constant(node.input[2])
    if window is None or bias is None:
        return None
    group = a.get("group", 1)
    cout, cin = weight.shape[0], weight.shape[1] * group
    step = Step(CONV, cout=cout, cin=cin, group=group, **vars(window))
    return LoweredLayer.with_weight([node], step, weight, bias)


def batch_norm(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """A batch norm, as a depthwise convolution of one tap."""
    a = attributes(node)
    statistics = [g.constant(name) for name in node.input[1:5]]
    if len(g.shape(node.input[0])) != 4 or a.get("training_mode", 0) or len(node.output) > 1:
        return None
    if any(x is None or x.dtype != np.float32 for x in statistics):
        return None
    gamma, beta, mean, variance = (np.asarray(x, np.float64) for x in statistics)
    scale = gamma / np.sqrt(variance + a.get("epsilon", 1e-5))
    weight = scale.astype(np.float32).reshape(-1, 1, 1, 1)
    bias = (beta - mean * scale).astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return None
    n = len(bias)
    return LoweredLayer.with_weight([node], Step(CONV, cout=n, cin=n, group=n), weight, bias)


MATCHERS: dict[str, Matcher] = {"Conv": conv, "BatchNormalization": batch_norm}
