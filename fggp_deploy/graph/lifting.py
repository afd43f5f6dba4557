"""Makes weights initializers that are in Constant nodes, behind a Transpose, or among the inputs.

Exporters of other packages write such files. Packing and the kernels look for initializers.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from fggp_deploy.graph.constants import constant_initializers, constant_value, unlist_initializers_
from fggp_deploy.graph.nodes import attribute, is_standard, names_read_inside


def lift_weights(model: ModelProto) -> ModelProto:
    """A copy in which float matrices of Constant nodes, and transposed ones, are initializers.

    A transposed initializer takes the place of the original if nothing else reads that. What
    IR version 3 lists as inputs too is a constant, and no input any more.
    """
    out = ModelProto()
    out.CopyFrom(model)
    unlist_initializers_(out)
    graph = out.graph
    fixed = {v.name for v in graph.output} | set(names_read_inside(graph))
    readers = Counter(name for node in graph.node for name in node.input)
    matrices = {
        name: t
        for name, t in constant_initializers(graph).items()
        if len(t.dims) == 2 and t.data_type == TensorProto.FLOAT
    }
    renamed: dict[str, str] = {}
    gone: set[str] = set()
    for node in graph.node:
        made = node.output[0] if node.output else ""
        if made in fixed:
            continue
        if (tensor := _hidden_weight(node)) is not None:
            lifted = graph.initializer.add()
            lifted.CopyFrom(tensor)
            lifted.name = made
            gone.add(made)
            if len(tensor.dims) == 2:
                matrices[made] = lifted
        elif node.op_type == "Transpose" and node.input[0] in matrices:
            source = node.input[0]
            if source in fixed or readers[source] != 1 or not _swaps(node):
                continue
            w = numpy_helper.to_array(matrices[source])
            matrices[source].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(w.T), source))
            renamed[made] = source
            gone.add(made)
    for i in reversed(range(len(graph.node))):
        if not gone.isdisjoint(graph.node[i].output):
            del graph.node[i]
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    return out


def _hidden_weight(node: NodeProto) -> TensorProto | None:
    """The float tensor of two or more dimensions that a Constant node holds."""
    tensor = constant_value(node)
    if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
        return None
    return tensor


def _swaps(node: NodeProto) -> bool:
    return is_standard(node) and attribute(node, "perm", [1, 0]) == [1, 0]
