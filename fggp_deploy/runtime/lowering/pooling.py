"""Poolings: over windows, and over whole planes."""

from __future__ import annotations

from dataclasses import replace

from onnx import NodeProto

from fggp_deploy.graph.nodes import attributes
from fggp_deploy.kernels.program import AVERAGE_POOL, FLATTEN, GLOBAL_AVERAGE, MAX_POOL, Step
from fggp_deploy.runtime.lowering.layer import LoweredLayer, Matcher
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph
from fggp_deploy.runtime.lowering.window import Window


def pool(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """MaxPool or AveragePool."""
    a = attributes(node)
    shape = g.shape(node.input[0])
    window = Window.of(a, a["kernel_shape"])
    if window is None or len(shape) != 4 or not shape[1]:
        return None
    if len(node.output) > 1 or a.get("storage_order", 0):
        return None
    count_padding = bool(a.get("count_include_pad", 0))
    if a.get("ceil_mode", 0):
        rounded_down = _rounding_down(window, shape[2:])
        # Runtimes differ on whether what only ceil_mode adds is counted.
        if rounded_down is None or (rounded_down != window and count_padding):
            return None
        window = rounded_down
    for axis, kernel in enumerate(window.kernel):
        padding = window.padding(axis)
        if max(padding) >= kernel or (any(padding) and window.dilations[axis] > 1):
            return None
    op = MAX_POOL if node.op_type == "MaxPool" else AVERAGE_POOL
    channels = shape[1]
    return LoweredLayer.of(
        node,
        Step(op, cout=channels, cin=channels, count_padding=count_padding, **vars(window)),
    )


def _rounding_down(window: Window, size: list[int]) -> Window | None:
    """A window with padding that, rounded down, gives as many outputs as this one rounded up.

    None if a size is not known, or if a window would start in the padding behind the plane:
    runtimes differ on whether that one exists.
    """
    pads = list(window.pads)
    for axis, n in enumerate(size):
        reach, stride = window.reach(axis), window.strides[axis]
        before, behind = window.padding(axis)
        start = -(-(n + before + behind - reach) // stride) * stride - before  # of the last window
        if n == 0 or start >= n:
            return None
        pads[axis + 2] = start + reach - n
    top, left, bottom, right = pads
    return replace(window, pads=(top, left, bottom, right))


def global_average(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """GlobalAveragePool."""
    return LoweredLayer.of(node, Step(GLOBAL_AVERAGE)) if len(g.shape(node.input[0])) == 4 else None


def reduce_mean(node: NodeProto, g: ShapedGraph) -> LoweredLayer | None:
    """A ReduceMean over the plane."""
    a = attributes(node)
    axes = a.get("axes")
    if axes is None and len(node.input) > 1:
        axes = g.constant(node.input[1])
    if axes is None or len(g.shape(node.input[0])) != 4:
        return None
    if sorted(int(x) for x in axes) not in ([2, 3], [-2, -1]):
        return None
    steps = [Step(GLOBAL_AVERAGE)]
    if not a.get("keepdims", 1):
        steps.append(Step(FLATTEN))
    return LoweredLayer.of(node, *steps)


MATCHERS: dict[str, Matcher] = {
    "MaxPool": pool,
    "AveragePool": pool,
    "GlobalAveragePool": global_average,
    "ReduceMean": reduce_mean,
}
