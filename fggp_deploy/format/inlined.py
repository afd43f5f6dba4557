"""The decoders that inlining `ai.fggp` functions leaves behind in a graph of standard operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from fggp_deploy.format.decoders import gaps_body, rice_body, unblock_body, unmask_body
from fggp_deploy.format.functions import (
    RICE_INPUTS,
    RICE_INT8_INPUTS,
    UNBLOCK_INPUTS,
    UNGAP_INPUTS,
    UNMASK_INPUTS,
)
from fggp_deploy.graph.constants import constant_initializers
from fggp_deploy.graph.nodes import integers

_ENDS = ("ScatterElements", "Where", "Transpose")  # before the Reshape to the weight's shape


@dataclass(frozen=True)
class Decoder:
    """Nodes that make a weight of `shape` from initializers.

    `parts`: what each of them holds (values, gaps, bits …) → its name. `block`: the sides of a
    block, where the weight is stored in such. `output`: the tensor that holds the weight; `inside`
    every tensor that the nodes make.
    """

    parts: Mapping[str, str]
    shape: tuple[int, ...]
    block: tuple[int, ...] | None
    output: str
    inside: frozenset[str]


def find_decoders(model: ModelProto) -> list[Decoder]:
    """All of a graph's decoders: cones of nodes from the parts of a weight to a Reshape or Mul."""
    made_by = {o: n for n in model.graph.node for o in n.output}
    initializers = constant_initializers(model.graph).keys()
    found = []
    for end in model.graph.node:
        reshape = made_by.get(end.input[0]) if end.op_type == "Mul" else end
        if reshape is None or reshape.op_type != "Reshape":
            continue
        source = made_by.get(reshape.input[0])
        if source is None or source.op_type not in _ENDS:
            continue
        cone, leaves = _cone(end, made_by)
        counts = Counter(n.op_type for n in cone)
        inputs = next((names for names, body in _BODIES.items() if counts == body), None)
        shape_node = made_by.get(reshape.input[1])
        if inputs is None or shape_node is None or not leaves <= initializers:
            continue
        parts = {part: leaf for part in inputs for leaf in leaves if leaf.endswith(f".{part}")}
        if len(parts) != len(inputs) or set(parts.values()) != leaves:
            continue
        block = None
        if inputs == UNBLOCK_INPUTS:
            sides = [n for n in cone if n is not shape_node and _has(n, "value_ints")]
            if len(sides) != 1:
                continue
            block = integers(sides[0], "value_ints")
        shape = integers(shape_node, "value_ints")
        inside = frozenset(o for n in cone for o in n.output)
        found.append(Decoder(parts, shape, block, end.output[0], inside))
    return found


_BODIES = {
    inputs: Counter(n.op_type for n in body)
    for inputs, body in (
        (UNGAP_INPUTS, gaps_body()),
        (UNMASK_INPUTS, unmask_body()),
        (RICE_INPUTS, rice_body()),
        (RICE_INT8_INPUTS, rice_body(scaled=False)),
        (UNBLOCK_INPUTS, unblock_body()),
    )
}


def _has(node: NodeProto, attribute: str) -> bool:
    return any(a.name == attribute for a in node.attribute)


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
        if len(cone) > 96:  # larger than any decoder
            break
        for name in filter(None, node.input):
            if name in made_by:
                todo.append(made_by[name])
            else:
                leaves.add(name)
    return list(cone.values()), leaves
