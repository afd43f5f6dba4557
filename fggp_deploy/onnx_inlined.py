"""The decoders that inlining `ai.fggp` functions leaves behind in a graph of standard operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from fggp_deploy.onnx_functions import (
    UNBLOCK_INPUTS,
    UNGAP_INPUTS,
    UNMASK_INPUTS,
    gaps_body,
    unblock_body,
    unmask_body,
)
from fggp_deploy.onnx_reading import integers

_BODIES = {  # what stands before the Reshape to the weight's shape → the decoder, its parts
    "ScatterElements": (gaps_body, UNGAP_INPUTS),
    "Where": (unmask_body, UNMASK_INPUTS),
    "Transpose": (unblock_body, UNBLOCK_INPUTS),
}


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
    """All of a graph's decoders: cones of nodes from initializers to a Reshape."""
    made_by = {o: n for n in model.graph.node for o in n.output}
    initializers = {t.name for t in model.graph.initializer}
    found = []
    for end in model.graph.node:
        source = made_by.get(end.input[0]) if end.op_type == "Reshape" else None
        if source is None or source.op_type not in _BODIES:
            continue
        body, wanted = _BODIES[source.op_type]
        cone, leaves = _cone(end, made_by)
        if Counter(n.op_type for n in cone) != Counter(n.op_type for n in body()):
            continue
        parts = {part: n for n in leaves for part in wanted if n.endswith(f".{part}")}
        if len(parts) != len(wanted) or len(leaves) != len(wanted) or not leaves <= initializers:
            continue
        shape_node = made_by.get(end.input[1])
        if shape_node is None:
            continue
        block = None
        if wanted == UNBLOCK_INPUTS:
            sides = [
                n for n in cone
                if n.output[0] != shape_node.output[0] and _has(n, "value_ints")
            ]  # fmt: skip
            if len(sides) != 1:
                continue
            block = integers(sides[0], "value_ints")
        inside = frozenset(o for n in cone for o in n.output)
        shape = integers(shape_node, "value_ints")
        found.append(Decoder(parts, shape, block, end.output[0], inside))
    return found


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
