"""Which constants of a graph are weights of its layers. Every count of weights uses this."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from fggp_deploy.graph.constants import initializers
from fggp_deploy.graph.view import GraphView

# The inputs of each operator that are weights: they are multiplied with activations.
_WEIGHT_INPUTS = {
    "Conv": (1,), "ConvTranspose": (1,), "ConvInteger": (1,), "QLinearConv": (3,),
    "Gemm": (0, 1), "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3),
    "RNN": (1, 2), "GRU": (1, 2), "LSTM": (1, 2),
}  # fmt: skip
# Operators that a weight may pass on its way to its layer.
_PASSED = (
    "Transpose", "DequantizeLinear", "Cast", "Reshape", "Identity", "Squeeze", "Unsqueeze",
)  # fmt: skip


def layer_weights(graph: GraphProto, constants: Collection[str]) -> dict[str, list[NodeProto]]:
    """The constants that convolutions, linear and recurrent layers multiply, and these layers.

    In the graph's order. Anchors, positions, masks, biases and embeddings do not count.
    `constants` are the names to look at; a weight may be transposed or dequantized on its way.
    """
    source = {name: name for name in constants}
    found: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:  # sorted: a value is made before it is read
        if node.op_type in _PASSED and node.input and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
            continue
        inputs = _WEIGHT_INPUTS.get(node.op_type, ())
        for name in {node.input[i]: None for i in inputs if i < len(node.input)}:
            if name in source:
                found[source[name]].append(node)
    return dict(found)


def untransposed(view: GraphView, name: str) -> str:
    """The value that a Transpose makes `name` of; `name` itself if none does."""
    made_by = view.producers.get(name)
    return name if made_by is None or made_by.op_type != "Transpose" else made_by.input[0]


def count_weights(model: ModelProto) -> tuple[int, int]:
    """How many weights of two or more dimensions the layers of a dense model have, and zeros."""
    constants = {n: t for n, t in initializers(model.graph).items() if len(t.dims) > 1}
    n = n_zeros = 0
    for name in layer_weights(model.graph, constants):
        w = numpy_helper.to_array(constants[name])
        n += w.size
        n_zeros += w.size - int(np.count_nonzero(w))
    return n, n_zeros
