"""Weights that other exporters hide: in Constant nodes, behind a Transpose, or among the inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from fggp_deploy.graph.constants import constants, unlist_initializers_


def lift_weights(model: ModelProto) -> ModelProto:
    """A copy in which float matrices of Constant nodes, and transposed ones, are initializers.

    A transposed initializer takes the place of the original where nothing else reads that. What
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
        for name, t in constants(graph).items()
        if len(t.dims) == 2 and t.data_type == TensorProto.FLOAT
    }
    renamed: dict[str, str] = {}
    gone: set[str] = set()
    for node in graph.node:
        made = node.output[0] if node.output else ""
        if made in fixed:
            continue
        if (tensor := _constant(node)) is not None:
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


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node carries in its attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def names_read_inside(graph: GraphProto) -> Iterator[str]:
    """Names inside the subgraphs of a graph's nodes, among them all that these read."""
    for node in graph.node:
        yield from names_inside(node)


def names_inside(node: NodeProto) -> Iterator[str]:
    """Names inside a node's subgraphs: values of the outer graph that they read, and their own."""
    for inner in subgraphs(node):
        yield from (v.name for v in (*inner.input, *inner.output))
        yield from (t.name for t in inner.initializer)
        for n in inner.node:
            yield from (*n.input, *n.output)
        yield from names_read_inside(inner)


def _constant(node: NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.type == AttributeProto.TENSOR:
            tensor = attribute.t
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2:
                return tensor
    return None


def _swaps(node: NodeProto) -> bool:
    perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [1, 0])
    return node.domain in ("", "ai.onnx") and perm == [1, 0]
