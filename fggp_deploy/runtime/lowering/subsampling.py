"""Slices and pads that a convolution can compute: the shortcuts of CIFAR's ResNets."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from fggp_deploy.graph.nodes import attributes
from fggp_deploy.kernels.program import CONV, Step
from fggp_deploy.runtime.lowering.layer import LoweredLayer, Matcher
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph

WIDEST = 4096  # channels: the weight is dense for a moment


def subsample(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """Slices that take every n-th row and column, and pads with channels of zeros, in a row.

    Option A of He et al., "Deep Residual Learning" (arXiv 1512.03385, section 3.3). It is a 1x1
    convolution with one weight of 1 for each channel.
    """
    shape = g.shape(node.input[0])
    if len(shape) != 4 or not all(shape[1:]):
        return None
    size, stride, pad = list(shape), [1, 1], [0, 0]
    nodes: list[NodeProto] = []
    at: NodeProto | None = node
    while at is not None:
        steps = _steps(at, size, g) if at.op_type == "Slice" else None
        channels = _channels(at, g) if at.op_type == "Pad" else None
        if steps is not None:
            for axis, every in enumerate(steps):
                size[axis + 2] = -(-size[axis + 2] // every)
                stride[axis] *= every
        elif channels is not None:
            size[1] += sum(channels)
            pad = [a + b for a, b in zip(pad, channels, strict=True)]
        else:
            break
        nodes.append(at)
        at = g.only_reader(at.output[0])
    if not nodes or max(size[1], *stride) > WIDEST:
        return None
    weight = np.zeros((size[1], shape[1], 1, 1), np.float32)
    weight[pad[0] + np.arange(shape[1]), np.arange(shape[1])] = 1
    step = Step(CONV, cout=size[1], cin=shape[1], strides=(stride[0], stride[1]))
    return LoweredLayer.with_weight(nodes, step, weight, np.zeros(size[1], np.float32))


def _steps(node: NodeProto, size: list[int], g: ShapedGraph) -> list[int] | None:
    """The steps of a Slice over whole planes, down and across; None for any other Slice."""
    operands = [g.constant(name) for name in node.input[1:]]
    if len(operands) < 2 or any(x is None for x in operands):
        return None
    starts, ends, *rest = ([int(i) for i in np.ravel(x)] for x in operands if x is not None)
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    found = [1, 1, 1, 1]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if start != 0 or step < 1 or not -4 <= axis < 4:
            return None
        known = size[axis]  # 0 if it is not
        if end < (known or 2**31 - 1):
            return None
        found[axis] = step
    return found[2:] if found[:2] == [1, 1] else None


def _channels(node: NodeProto, g: ShapedGraph) -> list[int] | None:
    """How many channels of zeros a Pad puts before and behind; None for any other Pad."""
    operands = [g.constant(name) if name else None for name in node.input[1:]]
    pads = operands[0] if operands else None
    if attributes(node).get("mode", b"constant") != b"constant" or pads is None:
        return None
    fill, axes = [*operands, None, None][1:3]
    named = [bool(name) for name in [*node.input, "", ""][2:4]]
    if (named[0] and (fill is None or np.any(fill != 0))) or (named[1] and axes is None):
        return None
    wanted = [int(a) % 4 for a in np.ravel(axes)] if axes is not None else list(range(4))
    before, behind = ([int(n) for n in half] for half in np.split(np.ravel(pads), 2))
    channels = [0, 0]
    for axis, first, last in zip(wanted, before, behind, strict=True):
        if axis == 1 and first >= 0 and last >= 0:
            channels = [first, last]
        elif first or last:
            return None
    return channels


MATCHERS: dict[str, Matcher] = {"Pad": subsample, "Slice": subsample}
