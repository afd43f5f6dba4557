"""Reading ONNX that nobody vouches for: one error for everything that is wrong with it.

Nothing here trusts the file: what does not fit raises ModelFileError.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
)

from fggp_deploy.common.confined import GRAPH_PASS, confined
from fggp_deploy.common.files import check_readable, contains
from fggp_deploy.errors import ModelFileError, shortened
from fggp_deploy.format.encodings import Array, Coo, checked_size
from fggp_deploy.format.functions import DOMAIN, is_ours
from fggp_deploy.graph.constants import without_defaults
from fggp_deploy.graph.external_data import DATA_FILE, MAX_BYTES, embed_

Shapes = dict[str, tuple[int | None, ...]]
MAX_NODES = 1 << 18  # of a graph with its functions inlined
MAX_DEPTH = 64  # of functions that call functions

_DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.INT8: np.dtype("i1"),
    TensorProto.UINT8: np.dtype("u1"),
    TensorProto.UINT16: np.dtype("<u2"),
    TensorProto.INT64: np.dtype("<i8"),
}


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a library says about hostile bytes into one ModelFileError."""
    try:
        yield
    except ModelFileError:
        raise
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        DecodeError,
        EncodeError,
        UnicodeDecodeError,
        ValueError,
        TypeError,
        OverflowError,
        RuntimeError,
        MemoryError,
    ) as e:
        raise ModelFileError(
            f"{what} is not valid ONNX ({type(e).__name__}: {shortened(e, 200)})"
        ) from e


def reject_foreign(model: ModelProto) -> None:
    """Raise ModelFileError for external data, or `ai.fggp` definitions that are not ours."""
    for tensor in _all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelFileError(
                f"tensor {tensor.name!r} lies in another file; a deployable file is one file"
            )
    for definition in model.functions:
        if definition.domain == DOMAIN and not is_ours(definition):
            raise ModelFileError(
                f"the file defines {DOMAIN}::{definition.name} in its own way; "
                "only version 1 of docs/format.md is read"
            )
    if len({(f.domain, f.name) for f in model.functions}) < len(model.functions):
        raise ModelFileError("the file defines a function twice")


def check_functions(model: ModelProto) -> None:
    """Raise ModelFileError unless the graph with its functions inlined has MAX_NODES nodes at most.

    A few functions that each call the next one twice would otherwise unfold to any size.
    """
    for name in (text for f in model.functions for text in (f.domain, f.name)):
        if not isinstance(name, str):  # protobuf gives bytes that are no UTF-8 as they are
            raise ModelFileError(f"its function {name!r:.60} has a name that is not UTF-8 text")
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[NodeProto], depth: int = 0) -> int:
        if depth > MAX_DEPTH:
            raise ModelFileError(
                f"its functions call each other more than {MAX_DEPTH} deep, or in a circle"
            )
        total = 0
        for node in _nodes_of(nodes):
            key = (node.domain, node.op_type)
            if key in functions and key not in sizes:
                sizes[key] = count(functions[key].node, depth + 1)
            total += sizes.get(key, 1)
        return total

    total = count(model.graph.node)
    if total > MAX_NODES:
        raise ModelFileError(
            f"its functions unfold to {total:.1e} nodes; at most {MAX_NODES:,} are read"
        )


def in_one_piece(content: bytes, folder: Path) -> bytes:
    """The content of an ONNX file in `folder` with the tensors that it keeps in data files there.

    Raises ModelFileError; see `graph.external_data`.
    """
    if DATA_FILE not in content:
        return content
    with reading("it is truncated, corrupt or no ONNX file: it"):
        model = ModelProto.FromString(content)
        return model.SerializeToString() if embed_(model, _all_tensors(model), folder) else content


def read_bytes(path: Path) -> bytes:
    """The content of an ONNX file in one piece, also if it keeps tensors in data files beside it.

    Raises ModelFileError.
    """
    if check_readable(path, ModelFileError) > MAX_BYTES:
        raise ModelFileError(f"{path} is larger than 2 GiB, which no ONNX file in one piece is")
    try:
        return in_one_piece(path.read_bytes(), path.parent)
    except ModelFileError as e:
        raise ModelFileError(f"{path}: {e}") from e


def stored_bytes(path: Path) -> int:
    """Size of an ONNX file, with what it keeps in data files beside it, in bytes."""
    return len(read_bytes(path)) if contains(path, DATA_FILE) else path.stat().st_size


def read_model(path: Path) -> ModelProto:
    """An ONNX file, with its data files, with at least one node; raises ModelFileError."""
    content = read_bytes(path)
    with reading(f"{path} is truncated, corrupt or no ONNX file: it"):
        model = onnx.load_model_from_string(content)
    if not model.graph.node:
        raise ModelFileError(f"{path} is truncated, corrupt or no ONNX file: it has no graph")
    try:
        check_functions(model)
    except ModelFileError as e:
        raise ModelFileError(f"{path}: {e}") from e
    return model


def one_image(model: ModelProto) -> ModelProto:
    """The model with a batch of one where that is open, so that shapes are those of one image."""
    single = ModelProto()
    single.CopyFrom(model)
    fix_open_sides_(single, {0: 1})
    return single


def fix_open_sides_(model: ModelProto, sides: Mapping[int, int]) -> None:
    """Give the inputs these sizes, by position, where they are open; forget shapes behind them."""
    constants = {t.name for t in model.graph.initializer}
    for value in model.graph.input:
        if value.name in constants:
            continue
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if i in sides and dim.dim_value < 1:
                dim.dim_value = sides[i]
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def inferred(model: ModelProto) -> GraphProto:
    """Inputs, inner values and outputs of the graph with the types and shapes that ONNX infers.

    ONNX works in a child process, since it can crash. Raises ModelFileError.
    """

    def work() -> bytes:
        with reading("the graph"):
            full = onnx.shape_inference.infer_shapes(model).graph
        values = GraphProto(input=full.input, value_info=full.value_info, output=full.output)
        content: bytes = values.SerializeToString()
        return content

    return GraphProto.FromString(confined(work, what="ONNX shape inference", limits=GRAPH_PASS))


def infer_shapes(model: ModelProto) -> Shapes:
    """Shapes that ONNX infers, by tensor name; None for a side that is not a number."""
    graph = inferred(without_defaults(model))
    shapes: Shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(
                d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim
            )
    return shapes


def tensor_array(tensor: TensorProto) -> Array:
    """A tensor's numbers as stored; raises ModelFileError unless they fill its shape exactly."""
    if tensor.data_type not in _DTYPES:
        raise ModelFileError(f"{tensor.name!r} has an element type that no weight may have")
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


def sparse_array(tensor: SparseTensorProto) -> Coo:
    """A sparse initializer with flat or per-axis indices; raises ModelFileError or ValueError."""
    values, indices = tensor_array(tensor.values), tensor_array(tensor.indices)
    shape = tuple(tensor.dims)
    checked_size(shape)
    if indices.ndim == 2 and indices.shape[1] == len(shape):
        indices = np.ravel_multi_index(tuple(indices.T), shape)
    return Coo(values, indices, shape)


def integers(node: NodeProto, key: str) -> tuple[int, ...]:
    """A node's attribute of integers; raises ModelFileError where it has none of that name."""
    for attribute in node.attribute:
        if attribute.name == key and attribute.type == AttributeProto.INTS:
            return tuple(attribute.ints)
    raise ModelFileError(f"{node.op_type} {node.name!r} must have integers {key}")


def _nodes_of(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes_of(graph.node)


def _all_tensors(model: ModelProto) -> Iterator[TensorProto]:
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
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)
