"""From a packed model, with functions or flat, to a standard graph and its checked weights.

Nothing here trusts the file: every tensor is read by our own code, every shape and index is
checked, and what does not fit raises ModelFileError.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.onnx_functions import (
    CONV_ATTRIBUTES,
    CONV_INPUTS,
    DOMAIN,
    UNMASK_INPUTS,
    gaps_body,
    is_ours,
    unmask_body,
)
from fggp_deploy.packing import MAX_ELEMENTS, Array, Bitmask, Gaps, Packed, checked_size

_DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.UINT8: np.dtype("u1"),
    TensorProto.UINT16: np.dtype("<u2"),
}


@dataclass(frozen=True)
class Unpacked:
    """A graph of standard operators whose sparse weights are graph inputs, and those weights."""

    graph: ModelProto
    weights: dict[str, Packed]

    def dense(self) -> ModelProto:
        """The ordinary dense-with-zeros model. Raises ModelFileError past protobuf's 2 GiB."""
        model = ModelProto()
        model.CopyFrom(self.graph)
        kept = [v for v in model.graph.input if v.name not in self.weights]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        for name, packed in self.weights.items():
            tensor = onnx.numpy_helper.from_array(packed.decode(), name)
            model.graph.initializer.append(tensor)
        return model


def unpack(model: ModelProto) -> ModelProto:
    """The dense-with-zeros model in standard operators, decoded by numpy.

    Requires what `pack` or `flatten` made, or any model without `ai.fggp` operators, which comes
    back as it is. Raises ModelFileError for anything that breaks the format.
    """
    return split(model).dense()


def split(model: ModelProto) -> Unpacked:
    """The same, with the sparse weights still packed and apart from the graph."""
    with reading("the model"):
        onnx.checker.check_model(model)
        reject_foreign(model)
        out = _Splitter(model).run()
        restore_gemms(out.graph.graph, infer_shapes(out.graph), set(out.weights))
        return out


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
        RuntimeError,
        MemoryError,
    ) as e:
        detail = " ".join(str(e).split())[:200]
        raise ModelFileError(f"{what} is not valid ONNX ({type(e).__name__}: {detail})") from e


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


def infer_shapes(model: ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Shapes that ONNX infers, by tensor name; None for a side that is not a number."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes: dict[str, tuple[int | None, ...]] = {
        t.name: tuple(t.dims) for t in model.graph.initializer
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None
                for d in value.type.tensor_type.shape.dim
            )
    return shapes


def restore_gemms(
    graph: GraphProto, shapes: dict[str, tuple[int | None, ...]], weights: set[str]
) -> None:
    """X·Wᵀ + B of a packed W becomes one Gemm again wherever X is known to be a matrix."""
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(v.name for v in graph.output)
    made_by = {o: n for n in graph.node for o in n.output}
    gone: set[str] = set()
    for add in graph.node:
        matmul = made_by.get(add.input[0]) if add.op_type == "Add" else None
        if matmul is None or matmul.op_type != "MatMul" or readers[matmul.output[0]] != 1:
            continue
        transpose = made_by.get(matmul.input[1])
        if transpose is None or transpose.op_type != "Transpose":
            continue
        if transpose.input[0] not in weights or len(shapes.get(matmul.input[0], ())) != 2:
            continue
        inputs = [matmul.input[0], transpose.input[0], add.input[1]]
        gone.add(matmul.output[0])
        if readers[transpose.output[0]] == 1:
            gone.add(transpose.output[0])
        name = add.name or layer_name(transpose.input[0])
        add.CopyFrom(helper.make_node("Gemm", inputs, add.output, name=name, transB=1))
    kept = [_copy(n) for n in graph.node if gone.isdisjoint(n.output)]
    del graph.node[:]
    graph.node.extend(kept)


class _Splitter:
    """One reading of one model."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.tensors = {t.name: t for t in model.graph.initializer}
        if len(self.tensors) < len(model.graph.initializer):
            raise ModelFileError("two initializers have the same name")
        self.weights: dict[str, Packed] = {}
        self.sources: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.parts: set[str] = set()

    def run(self) -> Unpacked:
        """Both forms at once: functions are replaced, inlined decoders are found and removed."""
        out = ModelProto()
        out.CopyFrom(self.model)
        graph = out.graph
        inlined = self._inlined_weights()
        nodes = []
        for node in graph.node:
            if any(o in inlined.dropped for o in node.output):
                continue
            if node.domain == DOMAIN:
                nodes.extend(self._standard(node))
                continue
            for index, name in enumerate(node.input):
                if name in inlined.names:
                    node.input[index] = inlined.names[name]
            if not node.name and len(node.input) > 1 and node.input[1] in self.weights:
                node.name = layer_name(node.input[1])
            nodes.append(_copy(node))
        if sum(math.prod(p.shape) for p in self.weights.values()) > MAX_ELEMENTS:
            raise ModelFileError(f"the weights exceed {MAX_ELEMENTS} elements in all")
        kept = [_copy(t) for t in graph.initializer if t.name not in self.parts]
        del graph.node[:], graph.initializer[:], out.functions[:]
        graph.node.extend(nodes)
        graph.initializer.extend(kept)
        for name, packed in self.weights.items():
            if name in self.tensors:
                raise ModelFileError(f"weight {name!r} is stored twice")
            value = helper.make_tensor_value_info(name, TensorProto.FLOAT, packed.shape)
            graph.input.append(value)
        opsets = [_copy(o) for o in out.opset_import if o.domain != DOMAIN]
        del out.opset_import[:]
        out.opset_import.extend(opsets)
        return Unpacked(out, self.weights)

    def _standard(self, node: NodeProto) -> list[NodeProto]:
        wanted = UNMASK_INPUTS if node.op_type == "Unmask" else CONV_INPUTS
        if node.op_type not in ("SparseConv", "SparseGemm", "Unmask"):
            raise ModelFileError(f"unknown operator {DOMAIN}::{node.op_type}")
        if len(node.input) != len(wanted) or len(node.output) != 1 or not all(node.input):
            raise ModelFileError(f"{node.op_type} {node.name!r} must have inputs {wanted}")
        attributes = {a.name: a for a in node.attribute}
        shape = _ints(node, attributes, "weight_shape")
        if node.op_type == "Unmask":
            if self._weight(node.input[0], node.input[1], shape) != node.output[0]:
                raise ModelFileError(f"Unmask {node.name!r} must make the weight it is named for")
            return []
        x, values, gaps, bias = node.input
        weight = self._weight(values, gaps, shape)
        if node.op_type == "SparseConv":
            conv = helper.make_node("Conv", [x, weight, bias], node.output, name=node.name)
            conv.attribute.append(helper.make_attribute("kernel_shape", shape[2:]))
            for key in CONV_ATTRIBUTES:
                if key not in attributes:
                    raise ModelFileError(f"SparseConv {node.name!r} lacks {key}")
                conv.attribute.append(attributes[key])
            return [conv]
        wt, product = f"{node.output[0]}.Wt", f"{node.output[0]}.XWt"
        return [
            helper.make_node("Transpose", [weight], [wt], perm=[1, 0]),
            helper.make_node("MatMul", [x, wt], [product]),
            helper.make_node("Add", [product, bias], node.output, name=node.name),
        ]

    def _weight(self, values: str, index: str, shape: tuple[int, ...]) -> str:
        """Read and check a weight once; returns its name, that of `values` without the suffix."""
        name, _, part = index.rpartition(".")
        if values != f"{name}.values" or part not in ("gaps", "bits"):
            raise ModelFileError(f"{values!r} and {index!r} are not the parts of one weight")
        if name in self.weights:
            if self.sources[name] != (part, shape):
                raise ModelFileError(f"two operators disagree about weight {name!r}")
            return name
        try:
            checked_size(shape)
            kind = Gaps if part == "gaps" else Bitmask
            self.weights[name] = kind(self._array(values), self._array(index), shape)
        except ModelFileError as e:
            raise ModelFileError(f"weight {name!r}: {e}") from e
        self.sources[name] = (part, shape)
        self.parts |= {values, index}
        return name

    def _array(self, name: str) -> Array:
        """An initializer's numbers; raises ModelFileError unless they fill its shape exactly."""
        if name not in self.tensors:
            raise ModelFileError(f"{name!r} is not an initializer of the file")
        return tensor_array(self.tensors[name])

    def _inlined_weights(self) -> _Inlined:
        """Find the decoders that inlining left behind: constant cones from two parts to Reshape."""
        made_by = {o: n for n in self.model.graph.node for o in n.output}
        found = _Inlined({}, set())
        for end in self.model.graph.node:
            source = made_by.get(end.input[0]) if end.op_type == "Reshape" else None
            if source is None or source.op_type not in ("ScatterElements", "Where"):
                continue
            cone, leaves = _cone(end, made_by)
            body = gaps_body() if source.op_type == "ScatterElements" else unmask_body()
            if Counter(n.op_type for n in cone) != Counter(n.op_type for n in body):
                continue
            index = [leaf for leaf in leaves if leaf.endswith((".gaps", ".bits"))]
            if len(leaves) != 2 or len(index) != 1 or not leaves <= self.tensors.keys():
                continue
            shape_node = made_by.get(end.input[1])
            if shape_node is None:
                continue
            attributes = {a.name: a for a in shape_node.attribute}
            shape = _ints(shape_node, attributes, "value_ints")
            (values,) = leaves - {index[0]}
            found.names[end.output[0]] = self._weight(values, index[0], shape)
            found.dropped.update(o for n in cone for o in n.output)
        return found


@dataclass(frozen=True)
class _Inlined:
    names: dict[str, str]  # tensor that a decoder makes → the weight it is
    dropped: set[str]  # every tensor inside the decoders


def layer_name(weight: str) -> str:
    """`layer1.0.conv1` for `layer1.0.conv1.weight`."""
    return weight.removesuffix(".weight")


def tensor_array(tensor: TensorProto) -> Array:
    """A tensor's numbers as stored; raises ModelFileError unless they fill its shape exactly."""
    if tensor.data_type not in _DTYPES:
        raise ModelFileError(f"{tensor.name!r} has an element type that no weight may have")
    dtype, shape = _DTYPES[tensor.data_type], tuple(tensor.dims)
    if not tensor.HasField("raw_data"):  # small tensors of other writers use typed fields
        stored = max(len(tensor.float_data), len(tensor.int32_data))
        if any(d < 0 for d in shape) or math.prod(shape) != stored:
            raise ModelFileError(f"{tensor.name!r} has {stored} elements for shape {shape}")
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    n_bytes = len(tensor.raw_data)
    if any(d < 0 for d in shape) or math.prod(shape) * dtype.itemsize != n_bytes:
        raise ModelFileError(f"{tensor.name!r} has {n_bytes} bytes for shape {shape} of {dtype}")
    return np.frombuffer(tensor.raw_data, dtype).reshape(shape)


def _cone(end: NodeProto, made_by: dict[str, NodeProto]) -> tuple[list[NodeProto], set[str]]:
    """The nodes that `end` depends on, itself included, and the tensors that none of them makes."""
    cone: dict[str, NodeProto] = {}
    leaves: set[str] = set()
    todo = [end]
    while todo:
        node = todo.pop()
        if node.output[0] in cone:
            continue
        cone[node.output[0]] = node
        if len(cone) > 64:  # larger than any decoder
            break
        for name in filter(None, node.input):
            if name in made_by:
                todo.append(made_by[name])
            else:
                leaves.add(name)
    return list(cone.values()), leaves


def _ints(node: NodeProto, attributes: dict[str, AttributeProto], key: str) -> tuple[int, ...]:
    if key not in attributes or attributes[key].type != AttributeProto.INTS:
        raise ModelFileError(f"{node.op_type} {node.name!r} must have integers {key}")
    return tuple(attributes[key].ints)


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


def _copy(message):  # type: ignore[no-untyped-def]
    """A protobuf message that survives clearing the list it came from."""
    out = type(message)()
    out.CopyFrom(message)
    return out
