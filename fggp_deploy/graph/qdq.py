"""Graphs whose activations are rounded to bytes between operators that compute in floats."""

from __future__ import annotations

from onnx import ModelProto


def has_quantized_activations(model: ModelProto) -> bool:
    """Whether values are rounded to whole numbers of a scale, while weights stay as they are.

    A network whose weights are dequantised too is not meant: the kernels leave it alone.
    """
    whole = {n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    back = [n.input[0] in whole for n in model.graph.node if n.op_type == "DequantizeLinear"]
    return bool(back) and all(back)


def remove_activation_quantization_(model: ModelProto) -> bool:
    """Take the rounding of a graph that `has_quantized_activations` out; whether there was any."""
    if not has_quantized_activations(model):
        return False
    source = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    plain: dict[str, str] = {}
    outputs = {v.name for v in model.graph.output}
    for node in list(model.graph.node):
        node.input[:] = [plain.get(name, name) for name in node.input]
        back = node.op_type == "DequantizeLinear" and node.input[0] in source
        if back and node.output[0] not in outputs:
            plain[node.output[0]] = plain.get(source[node.input[0]], source[node.input[0]])
            model.graph.node.remove(node)
    read = {name for n in model.graph.node for name in n.input} | outputs
    for node in [n for n in model.graph.node if n.op_type == "QuantizeLinear"]:
        if node.output[0] not in read:
            model.graph.node.remove(node)
    return True
