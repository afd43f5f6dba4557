"""Single layers: a node of a standard graph with its fused tail, as steps of a kernel program.

A matcher returns None for whatever the kernels cannot do exactly; that node stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from onnx import NodeProto, TensorProto

from fggp_deploy.graph.nodes import attributes
from fggp_deploy.kernels import program as p
from fggp_deploy.runtime.lowering import pooling, slicing
from fggp_deploy.runtime.lowering.graph import Array, Graph, Layer, single, window

INFINITY = float("inf")
# What may be said of quantising to uint8 by one scale, with nothing but the usual meaning.
_SAID_OF_BYTES = (
    ("axis", 0), ("axis", 1), ("block_size", 0), ("saturate", 1), ("precision", 0),
    ("output_dtype", 0), ("output_dtype", int(TensorProto.UINT8)),
)  # fmt: skip


def match_layers(g: Graph, without: Collection[str] = ()) -> tuple[list[Layer], dict[str, int]]:
    """The layers of a graph but those whose output is in `without`.

    Also, for each value made inside of a layer, that one's index.
    """
    layers: list[Layer] = []
    owner: dict[str, int] = {}
    position = {name: i for i, node in enumerate(g.graph.node) for name in node.output}
    for node in g.graph.node:
        if node.output[0] in owner or node.domain not in ("", "ai.onnx"):
            continue
        match = _MATCHERS.get(node.op_type)
        layer = match(node, g) if match else None
        if layer is None:
            continue
        _extend(layer, g, position, owner)
        if layer.output in without:
            continue
        for n in layer.nodes:
            owner[n.output[0]] = len(layers)
        layers.append(layer)
    return layers, owner


def _extend(layer: Layer, g: Graph, position: dict[str, int], owner: dict[str, int]) -> None:
    """Take an Add (behind a Conv) and an activation into a layer."""
    op = layer.steps[-1]["op"]
    reader = g.only_reader(layer.output)
    if op == p.CONV and reader is not None and reader.op_type == "Add":
        (other,) = [n for n in reader.input if n != layer.output] or [""]
        # Of two convolutions that meet, the later one adds; then the other value is ready.
        ready = position.get(other, -1) < position[layer.output]
        if reader.output[0] not in owner and ready and _can_add(layer.output, other, g):
            layer.nodes.append(reader)
            layer.inputs.append(other)
            layer.output = reader.output[0]
            reader = g.only_reader(layer.output)
    if op in (p.CONV, p.GEMM, p.ADD) and reader is not None and "activation" not in layer.steps[-1]:
        activation = _activation_of(reader, g)
        if activation is not None:
            layer.nodes.append(reader)
            layer.output = reader.output[0]
            layer.steps[-1]["activation"] = activation
            reader = g.only_reader(layer.output)
    if op in (p.CONV, p.ADD) and reader is not None and len(g.shape(layer.output)) == 4:
        back = g.only_reader(reader.output[0])
        rounding = _rounding(reader, back, g)
        if back is not None and rounding is not None and rounding[1] == 0:
            layer.nodes += [reader, back]
            layer.output = back.output[0]
            layer.steps[-1]["scale"] = rounding[0]


def _can_add(a: str, b: str, g: Graph) -> bool:
    """Whether two values are planes or vectors of one shape: the kernels do not broadcast."""
    return b not in g.constants and g.same_shape(a, b) and len(g.shape(a)) in (2, 4)


def _activation_of(node: NodeProto, g: Graph) -> p.Activation | None:
    """The activation that a Relu or a Clip is; None for other nodes and for computed limits."""
    if node.op_type == "Relu":
        return p.RELU
    if node.op_type != "Clip" or node.attribute:
        return None
    limits = [-INFINITY, INFINITY]
    for i, name in enumerate(node.input[1:3]):
        if name:
            value = g.constant(name)
            if value is None or value.size != 1:
                return None
            limits[i] = float(value.reshape(-1)[0])
    return p.clamp(*limits)


def _rounding(to: NodeProto, back: NodeProto | None, g: Graph) -> tuple[float, int] | None:
    """Scale and zero point of a value that two nodes round to bytes; None where they do not."""
    if back is None or (to.op_type, back.op_type) != ("QuantizeLinear", "DequantizeLinear"):
        return None
    said = [*attributes(to).items(), *attributes(back).items()]
    if any(pair not in _SAID_OF_BYTES for pair in said):
        return None
    if len(to.input) != 3 or len(back.input) != 3:
        return None
    scale, zero = g.constant(to.input[1]), g.constant(to.input[2])
    if scale is None or zero is None or zero.dtype != np.uint8 or scale.dtype != np.float32:
        return None
    if scale.size != 1 or zero.size != 1 or not 1e-30 <= scale.item() <= 1e30:
        return None
    for name, same in zip(back.input[1:], (scale, zero), strict=True):
        again = g.constant(name)
        if again is None or again.dtype != same.dtype or not np.array_equal(again, same):
            return None
    return float(scale.item()), int(zero.item())


def _round(node: NodeProto, g: Graph) -> Layer | None:
    """Bytes that no layer makes, such as the input's, where a convolution may multiply them."""
    back = g.only_reader(node.output[0])
    rounding = _rounding(node, back, g)
    if back is None or rounding is None or len(g.shape(node.input[0])) != 4:
        return None
    readers = g.readers(back.output[0])
    if not any(r.op_type == "Conv" and attributes(r).get("group", 1) == 1 for r in readers):
        return None
    step = {"op": p.ROUND, "scale": rounding[0], "constant": rounding[1]}
    return Layer([node, back], [node.input[0]], back.output[0], [step])


def _conv(node: NodeProto, g: Graph) -> Layer | None:
    weight = g.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim != 4:
        return None
    a = attributes(node)
    geometry = window(a, weight.shape[2:])
    bias: Array | None = np.zeros(weight.shape[0], np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = g.constant(node.input[2])
    if geometry is None or bias is None:
        return None
    group = a.get("group", 1)
    shape = {"cout": weight.shape[0], "cin": weight.shape[1] * group, "group": group}
    step = {"op": p.CONV, **shape, **geometry}
    return Layer([node], [node.input[0]], node.output[0], [step], weight, bias, 1)


def _batch_norm(node: NodeProto, g: Graph) -> Layer | None:
    """One that no convolution could swallow: a depthwise convolution of one tap."""
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
    step = {"op": p.CONV, "cout": n, "cin": n, "group": n}
    return Layer([node], [node.input[0]], node.output[0], [step], weight, bias, 1)


def _gemm(node: NodeProto, g: Graph) -> Layer | None:
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


def _matmul(node: NodeProto, g: Graph) -> Layer | None:
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


def _bias(name: str, n: int, g: Graph) -> Array | None:
    constant = g.constant(name)
    if constant is None or constant.shape not in ((n,), (1, n)):
        return None
    return constant.reshape(-1)


def _linear(nodes: list[NodeProto], weight: Array, bias: Array | None) -> Layer:
    step = {"op": p.GEMM, "cout": weight.shape[0], "cin": weight.shape[1]}
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    inputs, output = [nodes[0].input[0]], nodes[-1].output[0]
    return Layer(nodes, inputs, output, [step], weight, bias, len(nodes))


def _add(node: NodeProto, g: Graph) -> Layer | None:
    a, b = node.input
    if a in g.constants or not _can_add(a, b, g):
        return None
    return Layer([node], [a, b], node.output[0], [{"op": p.ADD}])


def _activation(node: NodeProto, g: Graph) -> Layer | None:
    activation = _activation_of(node, g)
    if (
        activation is None
        or len(g.shape(node.input[0])) not in (2, 4)
        or node.input[0] in g.constants
    ):
        return None
    return Layer([node], [node.input[0]], node.output[0], [{"op": p.ADD, "activation": activation}])


def _flatten(node: NodeProto, g: Graph) -> Layer | None:
    if attributes(node).get("axis", 1) != 1 or len(g.shape(node.input[0])) not in (2, 4):
        return None
    return single(node, p.FLATTEN)


def _reshape(node: NodeProto, g: Graph) -> Layer | None:
    constant = g.constant(node.input[1])
    if constant is None or constant.size != 2:
        return None
    first, rest = (int(d) for d in constant)
    if first == 0 and attributes(node).get("allowzero", 0):  # then 0 means an empty tensor
        return None
    known = g.shape(node.input[0])
    if len(known) not in (2, 4):
        return None
    batch = known[0]
    per_image = math.prod(known[1:])  # 0 where a dimension is not known
    keeps_batch = first == 0 or (batch > 0 and first == batch)
    keeps_rest = per_image > 0 and rest == per_image
    if not (keeps_batch and rest == -1) and not (keeps_rest and (keeps_batch or first == -1)):
        return None
    return single(node, p.FLATTEN)


_MATCHERS = {
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "Clip": _activation,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Relu": _activation,
    "MaxPool": pooling.pool,
    "AveragePool": pooling.pool,
    "GlobalAveragePool": pooling.global_average,
    "ReduceMean": pooling.reduce_mean,
    "Flatten": _flatten,
    "Pad": slicing.subsample,
    "QuantizeLinear": _round,
    "Reshape": _reshape,
    "Slice": slicing.subsample,
}
