"""Linear layers: Gemm, and MatMul with a constant."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from fggp_deploy.graph.nodes import attributes
from fggp_deploy.kernels.program import GEMM, Step
from fggp_deploy.runtime.lowering.layer import Array, LoweredLayer, Matcher
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph


def gemm(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """A Gemm with a constant weight and bias."""
    a = attributes(node)
    weight = g.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim != 2 or a.get("transA", 0):
        return None
    if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0:
        return None
    if not a.get("transB", 0):
        weight = np.ascontiguousarray(weight.T)
    bias = _bias(node.input[2], len(weight), g) if len(node.input) > 2 else None
    if len(node.input) > 2 and node.input[2] and bias is None:
        return None
    return _linear([node], weight, bias)


def matmul(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """A MatMul of a [N, K] value with a constant, and an Add of a constant bias behind it."""
    weight = g.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim != 2:
        return None
    if len(g.shape(node.input[0])) != 2:
        return None
    weight = np.ascontiguousarray(weight.T)
    reader = g.only_reader(node.output[0])
    if reader is not None and reader.op_type == "Add":
        for name in reader.input:
            bias = _bias(name, len(weight), g)
            if bias is not None:
                return _linear([node, reader], weight, bias)
    return _linear([node], weight, None)


def _bias(name: str, n: int, g: ShapedGraph) -> Array | None:
    constant = g.constant(name)
    if constant is None or constant.shape not in ((n,), (1, n)):
        return None
    return constant.reshape(-1)


def _linear(nodes: list[NodeProto], weight: Array, bias: Array | None) -> LoweredLayer:
    step = Step(GEMM, cout=weight.shape[0], cin=weight.shape[1])
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    return LoweredLayer.with_weight(nodes, step, weight, bias)


MATCHERS: dict[str, Matcher] = {"Gemm": gemm, "MatMul": matmul}
