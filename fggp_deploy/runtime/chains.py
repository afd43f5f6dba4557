"""Which nodes of a standard graph our kernels can take over, as layers with their fused tails.

A layer is a Conv with what follows it (an Add of an older value, a Relu or a Clip), a pooling, a
flattening or a Gemm. Layers that touch form a region; a region is convex: no path leaves it and
comes back, because a layer behind a foreign node that reads a region belongs to a later stage.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, helper, numpy_helper

from fggp_deploy.kernels import program as p

Array = npt.NDArray[Any]
INFINITY = float("inf")


@dataclass
class Layer:
    """Nodes that become one or two steps; `inputs` are the values that they read."""

    nodes: list[NodeProto]
    inputs: list[str]
    output: str
    steps: list[dict[str, Any]]
    weight: Array | None = None
    bias: Array | None = None


@dataclass
class Region:
    """Layers in order, the values that enter and those that leave."""

    layers: list[Layer]
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


class Graph:
    """A graph with its constants and the readers of each value."""

    def __init__(self, graph: GraphProto, shapes: dict[str, list[int]]) -> None:
        self.proto = graph
        self.shapes = shapes
        self.constants = {t.name: t for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.kept = {v.name for v in graph.output}

    def constant(self, name: str) -> Array | None:
        """The constant of that name, if it is one."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def only_reader(self, value: str) -> NodeProto | None:
        """The node that reads a value, if nothing else does."""
        readers = self.readers[value]
        return readers[0] if len(readers) == 1 and value not in self.kept else None


def find_regions(
    graph: GraphProto, shapes: dict[str, list[int]], *, without: Collection[str] = ()
) -> list[Region]:
    """The regions of a topologically sorted graph of standard operators, in order.

    `shapes` holds what is known of the values' shapes, 0 for a dimension that is not. Layers whose
    output is in `without` are left alone.
    """
    g = Graph(graph, shapes)
    layers, owner = _match_layers(g, without)
    stage: dict[str, tuple[int, bool]] = {}  # value -> stage, made by a layer
    regions: dict[int, Region] = {}
    done: set[int] = set()
    for node in graph.node:
        index = owner.get(node.output[0])
        if index is None:
            at = max((s + ours for s, ours in _stages(node.input, stage)), default=0)
            stage.update(dict.fromkeys(node.output, (at, False)))
        elif node.output[0] == layers[index].output and index not in done:
            done.add(index)
            layer = layers[index]
            at = max((s for s, _ in _stages(layer.inputs, stage)), default=0)
            stage[layer.output] = (at, True)
            regions.setdefault(at, Region([])).layers.append(layer)
    for region in regions.values():
        _find_borders(region, g)
    return [r for _, r in sorted(regions.items()) if any(x.weight is not None for x in r.layers)]


def _stages(names: Any, stage: dict[str, tuple[int, bool]]) -> list[tuple[int, bool]]:
    return [stage[n] for n in names if n in stage]


def _find_borders(region: Region, g: Graph) -> None:
    inside = {n.output[0] for layer in region.layers for n in layer.nodes}
    made = {layer.output for layer in region.layers}
    for layer in region.layers:
        for name in layer.inputs:
            if name not in made and name not in region.inputs:
                region.inputs.append(name)
        outside = any(n.output[0] not in inside for n in g.readers[layer.output])
        if outside or layer.output in g.kept:
            region.outputs.append(layer.output)


def _match_layers(g: Graph, without: Collection[str]) -> tuple[list[Layer], dict[str, int]]:
    layers: list[Layer] = []
    owner: dict[str, int] = {}
    position = {name: i for i, node in enumerate(g.proto.node) for name in node.output}
    for node in g.proto.node:
        if node.output[0] in owner or node.domain not in ("", "ai.onnx"):
            continue
        match = _MATCHERS.get(node.op_type)
        layer = match(node, g) if match else None
        if layer is None:
            continue
        if node.op_type == "Conv":
            _extend(layer, g, position, owner)
        if layer.output in without:
            continue
        for n in layer.nodes:
            owner[n.output[0]] = len(layers)
        layers.append(layer)
    return layers, owner


def _extend(layer: Layer, g: Graph, position: dict[str, int], owner: dict[str, int]) -> None:
    """Take an Add and an activation behind a Conv into its layer."""
    reader = g.only_reader(layer.output)
    if reader is not None and reader.op_type == "Add" and reader.output[0] not in owner:
        (other,) = [n for n in reader.input if n != layer.output] or [""]
        # Of two convolutions that meet, the later one adds; then the other value is ready.
        ready = position.get(other, -1) < position[layer.output]
        if other and other not in g.constants and ready:
            layer.nodes.append(reader)
            layer.inputs.append(other)
            layer.output = reader.output[0]
            reader = g.only_reader(layer.output)
    clip = None if reader is None else _activation(reader, g)
    if reader is not None and clip is not None:
        layer.nodes.append(reader)
        layer.output = reader.output[0]
        layer.steps[0]["clip"] = clip


def _activation(node: NodeProto, g: Graph) -> tuple[float, float] | None:
    if node.op_type == "Relu":
        return 0.0, INFINITY
    if node.op_type != "Clip" or node.attribute:
        return None
    limits = [-INFINITY, INFINITY]
    for i, name in enumerate(node.input[1:3]):
        if name:
            value = g.constant(name)
            if value is None or value.size != 1:
                return None
            limits[i] = float(value.reshape(-1)[0])
    return limits[0], limits[1]


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _window(a: dict[str, Any], kernel: tuple[int, ...]) -> dict[str, Any] | None:
    if len(kernel) != 2 or a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    pads = a.get("pads", [0] * 4) if a.get("auto_pad", b"NOTSET") == b"NOTSET" else [0] * 4
    return {
        "kernel": tuple(kernel),
        "strides": tuple(a.get("strides", [1, 1])),
        "dilations": tuple(a.get("dilations", [1, 1])),
        "pads": tuple(pads),
    }


def _conv(node: NodeProto, g: Graph) -> Layer | None:
    weight = g.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim != 4:
        return None
    attributes = _attributes(node)
    window = _window(attributes, weight.shape[2:])
    bias = np.zeros(weight.shape[0], np.float32)
    if len(node.input) > 2 and node.input[2]:
        constant = g.constant(node.input[2])
        if constant is None:
            return None
        bias = constant
    if window is None:
        return None
    group = attributes.get("group", 1)
    shape = {"cout": weight.shape[0], "cin": weight.shape[1] * group, "group": group}
    step = {"op": p.CONV, **shape, **window}
    return Layer([node], [node.input[0]], node.output[0], [step], weight, bias)


def _gemm(node: NodeProto, g: Graph) -> Layer | None:
    a = _attributes(node)
    weight = g.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim != 2 or a.get("transA", 0):
        return None
    if a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0:
        return None
    if not a.get("transB", 0):
        weight = np.ascontiguousarray(weight.T)
    bias = np.zeros(weight.shape[0], np.float32)
    if len(node.input) > 2 and node.input[2]:
        constant = g.constant(node.input[2])
        if constant is None or constant.shape not in ((weight.shape[0],), (1, weight.shape[0])):
            return None
        bias = constant.reshape(-1)
    step = {"op": p.GEMM, "cout": weight.shape[0], "cin": weight.shape[1]}
    return Layer([node], [node.input[0]], node.output[0], [step], weight, bias)


def _pool(node: NodeProto, g: Graph) -> Layer | None:
    a = _attributes(node)
    window = _window(a, tuple(a["kernel_shape"]))
    if window is None or a.get("ceil_mode", 0) or len(node.output) > 1:
        return None
    if window["dilations"] != (1, 1) or a.get("storage_order", 0):
        return None
    op = p.MAX_POOL if node.op_type == "MaxPool" else p.AVERAGE_POOL
    step = {"op": op, **window, "count_padding": bool(a.get("count_include_pad", 0))}
    return Layer([node], [node.input[0]], node.output[0], [step])


def _single(node: NodeProto, *ops: int) -> Layer:
    return Layer([node], [node.input[0]], node.output[0], [{"op": op} for op in ops])


def _global_average(node: NodeProto, g: Graph) -> Layer | None:
    return _single(node, p.GLOBAL_AVERAGE)


def _reduce_mean(node: NodeProto, g: Graph) -> Layer | None:
    a = _attributes(node)
    axes = a.get("axes")
    if axes is None and len(node.input) > 1:
        axes = g.constant(node.input[1])
    if axes is None or sorted(int(x) for x in axes) not in ([2, 3], [-2, -1]):
        return None
    tail = () if a.get("keepdims", 1) else (p.FLATTEN,)
    return _single(node, p.GLOBAL_AVERAGE, *tail)


def _flatten(node: NodeProto, g: Graph) -> Layer | None:
    return _single(node, p.FLATTEN) if _attributes(node).get("axis", 1) == 1 else None


def _reshape(node: NodeProto, g: Graph) -> Layer | None:
    constant = g.constant(node.input[1])
    if constant is None or constant.size != 2:
        return None
    first, rest = (int(d) for d in constant)
    if first == 0 and _attributes(node).get("allowzero", 0):  # then 0 means an empty tensor
        return None
    known = g.shapes.get(node.input[0], [])
    batch = known[0] if known else 0
    per_image = math.prod(known[1:])  # 0 where a dimension is not known
    keeps_batch = first == 0 or (batch > 0 and first == batch)
    keeps_rest = per_image > 0 and rest == per_image
    if not (keeps_batch and rest == -1) and not (keeps_rest and (keeps_batch or first == -1)):
        return None
    return _single(node, p.FLATTEN)


_MATCHERS = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_average,
    "ReduceMean": _reduce_mean,
    "Flatten": _flatten,
    "Reshape": _reshape,
}
