"""The decoders that inlining `ai.fggp` functions leaves behind in a graph of standard operators."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from fggp_deploy.onnx_functions import gaps_body, unmask_body
from fggp_deploy.onnx_reading import integers


@dataclass(frozen=True)
class Decoder:
    """Nodes that make a weight of `shape` from the initializers `values` and `index`.

    `part` is what `index` holds, gaps or bits; `output` the tensor that holds the weight; `inside`
    every tensor that the nodes make.
    """

    values: str
    index: str
    part: str
    shape: tuple[int, ...]
    output: str
    inside: frozenset[str]


def find_decoders(model: ModelProto) -> list[Decoder]:
    """All of a graph's decoders: cones of nodes from two initializers to a Reshape."""
    made_by = {o: n for n in model.graph.node for o in n.output}
    initializers = {t.name for t in model.graph.initializer}
    found = []
    for end in model.graph.node:
        source = made_by.get(end.input[0]) if end.op_type == "Reshape" else None
        if source is None or source.op_type not in ("ScatterElements", "Where"):
            continue
        cone, leaves = _cone(end, made_by)
        part = "gaps" if source.op_type == "ScatterElements" else "bits"
        body = gaps_body() if part == "gaps" else unmask_body()
        if Counter(n.op_type for n in cone) != Counter(n.op_type for n in body):
            continue
        index = [leaf for leaf in leaves if leaf.endswith(f".{part}")]
        if len(leaves) != 2 or len(index) != 1 or not leaves <= initializers:
            continue
        shape_node = made_by.get(end.input[1])
        if shape_node is None:
            continue
        (values,) = leaves - {index[0]}
        shape = integers(shape_node, "value_ints")
        inside = frozenset(o for n in cone for o in n.output)
        found.append(Decoder(values, index[0], part, shape, end.output[0], inside))
    return found


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
