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
    """A MatMul with a constant [K, N] on the right, and an Add of a constant bias behind it.

    The value on the left is [rows, K], or has one or two more dimensions of rows, such as [batch,
    tokens, K].
    """
    weight = g.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim != 2:
        return None
    rank = len(g.shape(node.input[0]))
    if rank not in (2, 3, 4):
        return None
    weight = np.ascontiguousarray(weight.T)
    reader = g.only_reader(node.output[0])
    if reader is not None and reader.op_type == "Add":
        for name in reader.input:
            bias = _bias(name, len(weight), g, rank=rank)
            if bias is not None:
                return _linear([node, reader], weight, bias, rank=rank)
    return _linear([node], weight, None, rank=rank)


def _bias(name: str, n: int, g: ShapedGraph, *, rank: int = 2) -> Array | None:
    """A constant that adds one number to each of the `n` features of a value of this rank."""
    constant = g.constant(name)
    if constant is None or constant.shape[-1:] != (n,) or constant.size != n:
        return None
    return constant.reshape(-1) if constant.ndim <= rank else None


def _linear(
    nodes: list[NodeProto], weight: Array, bias: Array | None, *, rank: int = 2
) -> LoweredLayer:
    step = Step(GEMM, cout=weight.shape[0], cin=weight.shape[1])
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    layer = LoweredLayer.with_weight(nodes, step, weight, bias)
    layer.on_rows = rank > 2
    return layer


MATCHERS: dict[str, Matcher] = {"Gemm": gemm, "MatMul": matmul}
