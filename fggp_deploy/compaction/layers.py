"""Convolutions and linear layers: how they transform constant channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import NodeProto

from fggp_deploy.compaction.graph import Array, Graph, MixingLayer, Needed
from fggp_deploy.graph.nodes import attributes


def conv(c: Graph, node: NodeProto, n: int) -> Array | None:
    """A convolution, ordinary or depthwise."""
    w = c.array(node.input[1])
    a, x = attributes(node), node.input[0]
    n_in = c.channels(x)
    if w is None or w.ndim < 3 or n_in is None or w.shape[0] != n:
        return None
    bias = np.zeros(n, np.float32)
    if len(node.input) > 2 and node.input[2]:
        stored = c.array(node.input[2])
        if stored is None or stored.shape != (n,):
            return None
        bias = stored
    safe = _safe_taps(a, w.shape[2:])
    group = a.get("group", 1)
    if group == 1 and w.shape[1] == n_in:
        flat = w.reshape(n, n_in, -1)
        layer = MixingLayer(node, flat, bias, safe, x, node.output[0])
        c.layers.append(layer)
        c.need.setdefault(x, np.zeros(n_in, bool))
        return _mixed(layer, c.constants(x))
    if group == n_in and w.shape[1] == 1 and n == n_in:
        return _depthwise(c, node, w.reshape(n, -1), bias, safe)
    return None


def _depthwise(c: Graph, node: NodeProto, w: Array, bias: Array, safe: Needed) -> Array | None:
    x = node.input[0]
    n = len(w)
    given = c.constants(x)
    known = np.isfinite(given) & ((given == 0) | ~(w[:, ~safe] != 0).any(axis=1))
    known |= ~w.any(axis=1)
    c.follow(node, [(x, np.arange(n))], params=[1, 2] if len(node.input) > 2 else [1])
    total = bias + w.sum(axis=1, dtype=np.float64) * np.where(np.isfinite(given), given, 0)
    return np.where(known, total, np.nan)


def _safe_taps(a: dict[str, Any], kernel: tuple[int, ...]) -> Needed:
    """Which taps of a window never read padding, flat; with unknown pads none does."""
    if a.get("auto_pad", b"NOTSET") == b"VALID":
        return np.ones(math.prod(kernel), bool)
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        return np.zeros(math.prod(kernel), bool)
    pads = a.get("pads", [0] * (2 * len(kernel)))
    dilations = a.get("dilations", [1] * len(kernel))
    safe = np.ones(kernel, bool)
    for axis, (k, d) in enumerate(zip(kernel, dilations, strict=True)):
        taps = np.arange(k) * d
        one = (taps >= pads[axis]) & (d * (k - 1) - taps >= pads[axis + len(kernel)])
        safe &= one.reshape([-1 if i == axis else 1 for i in range(len(kernel))])
    return safe.reshape(-1)


def _mixed(layer: MixingLayer, given: Array) -> Array:
    """Constants behind a layer: of outputs whose every weight reads a constant that it absorbs."""
    free = ~layer.reads() | layer.absorbs(given)
    sums = layer.weight.sum(axis=2, dtype=np.float64)
    total = layer.bias + sums @ np.where(np.isfinite(given), given, 0)
    constants: Array = np.where(free.all(axis=1), total, np.nan)
    return constants


def linear(c: Graph, node: NodeProto, n: int) -> Array | None:
    """Gemm and MatMul of a matrix [batch, C]."""
    w, x = c.array(node.input[1]), node.input[0]
    a, n_in = attributes(node), c.channels(x)
    if w is None or w.ndim != 2 or n_in is None or len(c.shapes.get(x, ())) != 2:
        return None
    if a.get("transA", 0) or a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0:
        return None
    rows = w if a.get("transB", 0) else w.T
    if rows.shape != (n, n_in):
        return None
    bias = np.zeros(n, np.float32)
    if len(node.input) > 2 and node.input[2]:
        stored = c.array(node.input[2])
        if stored is None or stored.shape not in ((n,), (1, n)):
            return None
        bias = stored.reshape(-1)
    safe = np.ones(1, bool)
    layer = MixingLayer(node, rows[:, :, None], bias, safe, x, node.output[0])
    c.layers.append(layer)
    c.need.setdefault(x, np.zeros(n_in, bool))
    return _mixed(layer, c.constants(x))
