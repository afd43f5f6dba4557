"""Nodes: their outputs, their attributes, and the subgraphs in the attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto, helper

from fggp_deploy.errors import ModelFileError

STANDARD_DOMAINS = ("", "ai.onnx")


def is_standard(node: NodeProto) -> bool:
    """Whether a node's operator belongs to the standard operator set."""
    return node.domain in STANDARD_DOMAINS


def producers(nodes: Iterable[NodeProto]) -> dict[str, NodeProto]:
    """The node that makes each value."""
    return {name: node for node in nodes for name in node.output}


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes by name; those that it leaves at their defaults are missing."""
    return {n: helper.get_attribute_value(a) for n, a in attribute_protos(node).items()}


def attribute_protos(node: NodeProto) -> dict[str, AttributeProto]:
    """A node's attributes by name as they are stored, with their types."""
    return {a.name: a for a in node.attribute}


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """One attribute of a node, or its default."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def integers(node: NodeProto, name: str) -> tuple[int, ...]:
    """An attribute of integers; raises ModelFileError if the node has none of that name."""
    for found in node.attribute:
        if found.name == name and found.type == AttributeProto.INTS:
            return tuple(found.ints)
    raise ModelFileError(f"{node.op_type} {node.name!r} must have an attribute {name} of integers")


def set_attribute_(node: NodeProto, name: str, value: Any) -> None:
    """Give a node's attribute this value, whether it was there before or not."""
    others = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*others, helper.make_attribute(name, value)])


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node carries in its attributes."""
    for found in node.attribute:
        if found.HasField("g"):
            yield found.g
        yield from found.graphs


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
