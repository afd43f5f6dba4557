"""Which poolings the kernels can take over."""

from __future__ import annotations

from typing import Any

from onnx import NodeProto

from fggp_deploy.graph.nodes import attributes
from fggp_deploy.kernels import program as p
from fggp_deploy.runtime.lowering.graph import Graph, Layer, single, window


def pool(node: NodeProto, g: Graph) -> Layer | None:
    """MaxPool or AveragePool."""
    a = attributes(node)
    shape = g.shape(node.input[0])
    geometry = window(a, tuple(a["kernel_shape"]))
    if geometry is None or len(shape) != 4 or not shape[1]:
        return None
    if len(node.output) > 1 or a.get("storage_order", 0):
        return None
    count_padding = bool(a.get("count_include_pad", 0))
    if a.get("ceil_mode", 0):
        pads = _ceil_pads(geometry, shape[2:])
        # Runtimes differ on whether what only ceil_mode adds is counted.
        if pads is None or (pads != geometry["pads"] and count_padding):
            return None
        geometry["pads"] = pads
    padded = [any(geometry["pads"][i::2]) for i in (0, 1)]
    for axis, kernel in enumerate(geometry["kernel"]):
        if max(geometry["pads"][axis::2]) >= kernel:
            return None
        if padded[axis] and geometry["dilations"][axis] > 1:
            return None
    op = p.MAX_POOL if node.op_type == "MaxPool" else p.AVERAGE_POOL
    channels = {"cout": shape[1], "cin": shape[1]}
    step = {"op": op, **channels, **geometry, "count_padding": count_padding}
    return Layer([node], [node.input[0]], node.output[0], [step])


def _ceil_pads(geometry: dict[str, Any], size: list[int]) -> tuple[int, ...] | None:
    """Pads with which rounding down gives as many outputs as rounding up does with the given ones.

    None where a size is not known, or where a window would start in the padding behind the plane:
    runtimes differ on whether that one exists.
    """
    pads = list(geometry["pads"])
    for i, (n, k, s, d) in enumerate(
        zip(size, geometry["kernel"], geometry["strides"], geometry["dilations"], strict=True)
    ):
        reach = d * (k - 1) + 1
        last = -(-(n + pads[i] + pads[i + 2] - reach) // s) * s - pads[i]  # where a window starts
        if n == 0 or last >= n:
            return None
        pads[i + 2] = last + reach - n
    return tuple(pads)


def global_average(node: NodeProto, g: Graph) -> Layer | None:
    """GlobalAveragePool."""
    return single(node, p.GLOBAL_AVERAGE) if len(g.shape(node.input[0])) == 4 else None


def reduce_mean(node: NodeProto, g: Graph) -> Layer | None:
    """A ReduceMean over the plane."""
    a = attributes(node)
    axes = a.get("axes")
    if axes is None and len(node.input) > 1:
        axes = g.constant(node.input[1])
    if axes is None or len(g.shape(node.input[0])) != 4:
        return None
    if sorted(int(x) for x in axes) not in ([2, 3], [-2, -1]):
        return None
    tail = () if a.get("keepdims", 1) else (p.FLATTEN,)
    return single(node, p.GLOBAL_AVERAGE, *tail)
