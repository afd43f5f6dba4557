"""The dense form of a model, which the planner and the dense int8 baseline start from."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from fggp_deploy.common.files import scratch_error, scratch_folder
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.nodes import attribute, is_standard
from fggp_deploy.graph.reading import reading
from fggp_deploy.graph.view import GraphView
from fggp_deploy.runtime.sessions import SessionConfig


def read_dense(data: bytes) -> ModelProto:
    """The dense form of a model in standard operators, after ONNX Runtime's basic optimizations.

    Constants and batch norms are folded then, and nodes named by their outputs. Raises
    ModelFileError, and MachineError if ONNX Runtime cannot write that model to a temporary file.
    """
    with reading("the model"):
        model = unpack(onnx.load_model_from_string(data))
        _transpose_weights_(model)
    content: bytes = model.SerializeToString()
    del model
    dense = _optimized(content)
    _dequantize_once_(dense)
    for node in dense.graph.node:
        node.name = node.output[0]  # what a profile calls it
    return dense


def _transpose_weights_(model: ModelProto) -> None:
    """Transpose each float constant that only a Transpose reads, under its own name.

    Unpacking puts a Transpose behind the weight of a layer on tokens. ONNX Runtime would fold it
    into a constant with another name, and the layer would lose its name.
    """
    g = GraphView(model.graph)
    renamed: dict[str, str] = {}
    for node in g.graph.node:
        if node.op_type != "Transpose" or not is_standard(node):
            continue
        (name,), (made,) = node.input, node.output
        tensor = g.initializers.get(name)
        if tensor is None or name not in g.constants or tensor.data_type != TensorProto.FLOAT:
            continue
        if len(g.uses[name]) > 1 or not g.read_outside.isdisjoint((name, made)):
            continue
        array = np.transpose(numpy_helper.to_array(tensor), attribute(node, "perm", None))
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
        renamed[made] = name
    for node in list(g.graph.node):
        if node.output[0] in renamed:
            g.graph.node.remove(node)
        else:
            node.input[:] = [renamed.get(name, name) for name in node.input]
    transposed = set(renamed.values())
    for value in list(g.graph.value_info):
        if value.name in transposed:
            g.graph.value_info.remove(value)


def _optimized(model: bytes) -> ModelProto:
    with scratch_folder("fggp-compile-") as folder:
        path = folder / "basic.onnx"
        try:
            SessionConfig(1).open(model, optimized=path)
        except ModelFileError as e:
            SessionConfig(1).open(model)  # raises if it is the model that is at fault, not the file
            raise scratch_error(f"{folder.parent} may be full") from e
        return onnx.load(path)


def _dequantize_once_(model: ModelProto) -> None:
    """Let one node dequantize a value for all its readers; ONNX Runtime gives each its own."""
    first: dict[tuple[str, ...], str] = {}
    other: dict[str, str] = {}
    outputs = {v.name for v in model.graph.output}
    for node in list(model.graph.node):
        node.input[:] = [other.get(name, name) for name in node.input]
        if node.op_type == "DequantizeLinear" and node.output[0] not in outputs:
            same = (*node.input, *(a.SerializeToString().hex() for a in node.attribute))
            name = first.setdefault(same, node.output[0])
            if name != node.output[0]:
                other[node.output[0]] = name
                model.graph.node.remove(node)
