"""The tensors of a model as NumPy arrays whose sizes are checked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from fggp_deploy.errors import ModelFileError
from fggp_deploy.graph.nodes import subgraphs

Array = npt.NDArray[Any]

_DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.INT8: np.dtype("i1"),
    TensorProto.UINT8: np.dtype("u1"),
    TensorProto.UINT16: np.dtype("<u2"),
    TensorProto.INT64: np.dtype("<i8"),
}


def tensor_array(tensor: TensorProto) -> Array:
    """A tensor's numbers as stored; raises ModelFileError unless they fill its shape exactly."""
    if tensor.data_type not in _DTYPES:
        raise ModelFileError(f"{tensor.name!r} has an element type that is not allowed for weights")
    dtype, shape = _DTYPES[tensor.data_type], tuple(tensor.dims)
    if not tensor.HasField("raw_data"):  # small tensors of other writers use typed fields
        stored = max(map(len, (tensor.float_data, tensor.int32_data, tensor.int64_data)))
        if any(d < 0 for d in shape) or math.prod(shape) != stored:
            raise ModelFileError(f"{tensor.name!r} has {stored} elements for shape {shape}")
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    n_bytes = len(tensor.raw_data)
    if any(d < 0 for d in shape) or math.prod(shape) * dtype.itemsize != n_bytes:
        raise ModelFileError(f"{tensor.name!r} has {n_bytes} bytes for shape {shape} of {dtype}")
    return np.frombuffer(tensor.raw_data, dtype).reshape(shape)


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: initializers and attributes, also of subgraphs and functions."""
    yield from _graph_tensors(model.graph)
    for definition in model.functions:
        for node in definition.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
    for graph in subgraphs(node):
        yield from _graph_tensors(graph)
