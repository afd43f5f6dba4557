"""Quantized activations: a QuantizeLinear followed by a DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto

from fggp_deploy.graph.nodes import attributes
from fggp_deploy.kernels.program import ROUND, Step
from fggp_deploy.runtime.lowering.layer import Array, LoweredLayer, Matcher
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph

# The attributes with which both nodes mean plain uint8 with one scale.
_ALLOWED = (
    ("axis", 0), ("axis", 1), ("block_size", 0), ("saturate", 1), ("precision", 0),
    ("output_dtype", 0), ("output_dtype", int(TensorProto.UINT8)),
)  # fmt: skip
_SCALES = (1e-30, 1e30)  # what the kernels accept


@dataclass(frozen=True)
class Uint8:
    """How a value is quantized: x ≈ scale · (q − zero_point)."""

    scale: float
    zero_point: int


def quantized(to: NodeProto, back: NodeProto | None, g: ShapedGraph) -> Uint8 | None:
    """How two nodes quantize a value to uint8 and back; None if they do anything else."""
    if back is None or (to.op_type, back.op_type) != ("QuantizeLinear", "DequantizeLinear"):
        return None
    given = [*attributes(to).items(), *attributes(back).items()]
    if any(pair not in _ALLOWED for pair in given):
        return None
    if len(to.input) != 3 or len(back.input) != 3:
        return None
    scale, zero_point = g.constant(to.input[1]), g.constant(to.input[2])
    if scale is None or zero_point is None:
        return None
    if zero_point.dtype != np.uint8 or scale.dtype != np.float32:
        return None
    if scale.size != 1 or zero_point.size != 1 or not _SCALES[0] <= scale.item() <= _SCALES[1]:
        return None
    if not all(map(_same, map(g.constant, back.input[1:]), (scale, zero_point))):
        return None
    return Uint8(float(scale.item()), int(zero_point.item()))


def _same(a: Array | None, b: Array) -> bool:
    return a is not None and a.dtype == b.dtype and np.array_equal(a, b)


def round_(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """A quantized value that no layer makes, such as the input, if a convolution may read it."""
    back = g.only_reader(node.output[0])
    found = quantized(node, back, g)
    if back is None or found is None or len(g.shape(node.input[0])) != 4:
        return None
    readers = g.readers(back.output[0])
    if not any(r.op_type == "Conv" and attributes(r).get("group", 1) == 1 for r in readers):
        return None
    step = Step(ROUND, scale=found.scale, zero_point=found.zero_point)
    return LoweredLayer([node, back], [node.input[0]], back.output[0], [step])


MATCHERS: dict[str, Matcher] = {"QuantizeLinear": round_}
