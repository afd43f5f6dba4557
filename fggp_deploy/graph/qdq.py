"""Finds and removes quantized activations: QuantizeLinear, DequantizeLinear, float operators."""

from __future__ import annotations

from onnx import ModelProto

from fggp_deploy.graph.view import GraphView


def has_quantized_activations(model: ModelProto) -> bool:
    """Whether activations are quantized while weights are stored as floats.

    A network whose weights are dequantized too does not count: the kernels do not run it.
    """
    quantized = {n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    pairs = [n.input[0] in quantized for n in model.graph.node if n.op_type == "DequantizeLinear"]
    return bool(pairs) and all(pairs)


def remove_activation_quantization_(model: ModelProto) -> bool:
    """Undo the quantization that `has_quantized_activations` finds; whether there was any."""
    if not has_quantized_activations(model):
        return False
    graph = model.graph
    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    exact: dict[str, str] = {}  # a dequantized value → what it was before
    outputs = {v.name for v in graph.output}
    for node in list(graph.node):
        node.input[:] = [exact.get(name, name) for name in node.input]
        pair = node.op_type == "DequantizeLinear" and node.input[0] in source
        if pair and node.output[0] not in outputs:
            exact[node.output[0]] = exact.get(source[node.input[0]], source[node.input[0]])
            graph.node.remove(node)
    view = GraphView(graph)
    for node in [n for n in graph.node if n.op_type == "QuantizeLinear"]:
        if not view.readers(node.output[0]) and node.output[0] not in outputs:
            graph.node.remove(node)
    return True
