"""How each operator transforms constant channels, and which channels it connects.

Each rule takes the graph, a node and the number of channels of its output. It returns the constant
of each of these channels, NaN for a channel that is not constant, or None if it does not support
the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto

from fggp_deploy.compaction.graph import Array, Graph
from fggp_deploy.compaction.layers import conv, linear
from fggp_deploy.graph.nodes import attributes
from fggp_deploy.graph.tensors import tensor_array

_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
_BINARY = ("Add", "Sub", "Mul", "Div")


def _unary(f: Callable[[Array, dict[str, Any]], Array]) -> Callable[..., Array | None]:
    def look(c: Graph, node: NodeProto, n: int) -> Array | None:
        if len(node.input) != 1 or c.channels(node.input[0]) != n:
            return None
        c.follow(node, [(node.input[0], np.arange(n))])
        with np.errstate(invalid="ignore", over="ignore"):
            return f(c.constants(node.input[0]), attributes(node))

    return look


def _clip(c: Graph, node: NodeProto, n: int) -> Array | None:
    limits = [-np.inf, np.inf]
    for i, name in enumerate(node.input[1:3]):
        if name:
            value = c.array(name)
            if value is None or value.size != 1:
                return None
            limits[i] = float(value.reshape(-1)[0])
    if node.attribute or c.channels(node.input[0]) != n:
        return None
    c.follow(node, [(node.input[0], np.arange(n))])
    return np.minimum(np.maximum(c.constants(node.input[0]), limits[0]), limits[1])


def _batch_norm(c: Graph, node: NodeProto, n: int) -> Array | None:
    a = attributes(node)
    numbers = [c.array(name) for name in node.input[1:5]]
    if c.channels(node.input[0]) != n or a.get("training_mode", 0) or len(numbers) != 4:
        return None
    if any(p is None or p.shape != (n,) for p in numbers):
        return None
    scale, shift, mean, variance = (np.asarray(p, np.float64) for p in numbers)
    c.follow(node, [(node.input[0], np.arange(n))], params=[1, 2, 3, 4])
    given = c.constants(node.input[0])
    return (given - mean) / np.sqrt(variance + a.get("epsilon", 1e-5)) * scale + shift


def _binary(c: Graph, node: NodeProto, n: int) -> Array | None:
    """An operator on two values of one width, or on a value and one or C constants."""
    operands, parts, params = [], [], []
    rank = len(c.shapes.get(node.output[0], ()))
    for i, name in enumerate(node.input):
        value = c.array(name)
        if value is None:
            shape = c.shapes.get(name, ())
            if c.channels(name) != n or len(shape) != rank:
                return None
            parts.append((name, np.arange(n)))
            operands.append(c.constants(name))
            continue
        aligned = (1,) * (rank - value.ndim) + value.shape
        if value.ndim > rank or any(d != 1 for k, d in enumerate(aligned) if k != 1):
            return None
        if value.size not in (1, n):
            return None
        if n == 1 or value.size == n:
            params.append(i)
        operands.append(np.broadcast_to(value.reshape(-1).astype(np.float64), n))
    if not parts:
        return None
    c.follow(node, parts, params)
    a, b = operands
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        result = {"Add": a + b, "Sub": a - b, "Mul": a * b, "Div": a / b}[node.op_type]
    if node.op_type == "Mul":
        result = np.where((a == 0) | (b == 0), 0.0, result)
    return np.where(np.isfinite(result), result, np.nan)


def _concat(c: Graph, node: NodeProto, n: int) -> Array | None:
    rank = len(c.shapes.get(node.output[0], ()))
    widths = [c.channels(name) for name in node.input]
    if attributes(node).get("axis") not in (1, 1 - rank) or None in widths:
        return None
    if sum(w or 0 for w in widths) != n:
        return None
    parts, start = [], 0
    for name, width in zip(node.input, widths, strict=True):
        assert width is not None  # seen above
        source = np.full(n, -1)
        source[start : start + width] = np.arange(width)
        parts.append((name, source))
        start += width
    c.follow(node, parts)
    return np.concatenate([c.constants(name) for name in node.input])


def _pool(c: Graph, node: NodeProto, n: int) -> Array | None:
    """Poolings: a constant does not change, unless padding is counted as zeros."""
    a, x = attributes(node), node.input[0]
    if c.channels(x) != n or len(c.shapes.get(x, ())) < 3:
        return None
    if node.op_type == "ReduceMean":
        axes = a.get("axes")
        if axes is None and len(node.input) > 1 and node.input[1] in c.tensors:
            axes = tensor_array(c.tensors[node.input[1]]).tolist()
        rank = len(c.shapes[x])
        if axes is None or sorted(i % rank for i in axes) != list(range(2, rank)):
            return None
    c.follow(node, [(x, np.arange(n))])
    given = c.constants(x)
    dilated = any(d != 1 for d in a.get("dilations", ()))
    plain = (
        not a.get("ceil_mode", 0)
        and not dilated
        and a.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    )
    padded = any(a.get("pads", ())) or not plain
    counts = node.op_type == "AveragePool" and (a.get("count_include_pad", 0) or not plain)
    if (padded and counts) or (node.op_type == "MaxPool" and not plain):
        return np.where(given == 0, 0.0, np.nan) if counts else np.full(n, np.nan)
    return given


def _flatten(c: Graph, node: NodeProto, n: int) -> Array | None:
    """Flatten, and a Reshape to [batch, -1]: a channel becomes one channel per pixel."""
    x = node.input[0]
    width = c.channels(x)
    if width is None or n % width or len(c.shapes.get(node.output[0], ())) != 2:
        return None
    if node.op_type == "Flatten":
        if attributes(node).get("axis", 1) != 1:
            return None
    else:
        tensor = c.tensors.get(node.input[1])
        wanted = None if tensor is None else tensor_array(tensor).tolist()
        if wanted not in ([0, -1], [0, n], [-1, n]):
            return None
        if 0 in wanted and attributes(node).get("allowzero", 0):
            return None
        if None in c.shapes[x] or math.prod(d or 0 for d in c.shapes[x][1:]) != n:
            return None
        c.reshapes.append(node)
    source = np.repeat(np.arange(width), n // width)
    c.follow(node, [(x, source)])
    return c.constants(x)[source]


def _integers(c: Graph, node: NodeProto, index: int) -> list[int] | None:
    """A constant input of integers; None if it is absent or not constant."""
    tensor = c.tensors.get(node.input[index]) if len(node.input) > index else None
    return None if tensor is None else [int(i) for i in tensor_array(tensor).reshape(-1)]


def _slice(c: Graph, node: NodeProto, n: int) -> Array | None:
    """A Slice of planes; which part it takes does not matter."""
    x, axes = node.input[0], _integers(c, node, 3)
    rank = len(c.shapes.get(x, ()))
    if c.channels(x) != n or axes is None or any(a % rank < 2 for a in axes):
        return None
    c.follow(node, [(x, np.arange(n))])
    return c.constants(x)


def _pad(c: Graph, node: NodeProto, n: int) -> Array | None:
    """A Pad with channels of zeros, as in the shortcuts of ResNets for small images."""
    x, pads = node.input[0], _integers(c, node, 1)
    rank, width = len(c.shapes.get(x, ())), c.channels(x)
    if pads is None or width is None or attributes(node).get("mode", b"constant") != b"constant":
        return None
    fill = c.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    axes = _integers(c, node, 3)
    if len(node.input) > 3 and node.input[3] and axes is None:
        return None
    axes = [a % rank for a in axes] if axes is not None else list(range(rank))
    if fill is None or fill.any() or len(pads) != 2 * len(axes) or len(set(axes)) < len(axes):
        return None
    both = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    before, after = both.pop(1, (0, 0))
    if any(p != (0, 0) for p in both.values()) or min(before, after) < 0:
        return None
    if before + width + after != n:
        return None
    source = np.concatenate([np.full(before, -1), np.arange(width), np.full(after, -1)])
    c.follow(node, [(x, source)])
    c.pads[node.output[0]] = (before, after, rank)
    return np.concatenate([np.zeros(before), c.constants(x), np.zeros(after)])


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _hard_sigmoid(x: Array, a: dict[str, Any]) -> Array:
    return np.clip(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1)


LOOKS: dict[str, Callable[[Graph, NodeProto, int], Array | None]] = {
    "Conv": conv,
    "Gemm": linear,
    "MatMul": linear,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Pad": _pad,
    "Slice": _slice,
    "Identity": _unary(lambda x, a: x),
    "Relu": _unary(lambda x, a: np.maximum(x, 0)),
    "LeakyRelu": _unary(lambda x, a: np.where(x < 0, a.get("alpha", 0.01) * x, x)),
    "Sigmoid": _unary(lambda x, a: _sigmoid(x)),
    "Tanh": _unary(lambda x, a: np.tanh(x)),
    "HardSigmoid": _unary(_hard_sigmoid),
    "HardSwish": _unary(lambda x, a: x * np.clip(x / 6 + 0.5, 0, 1)),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_BINARY, _binary),
}
