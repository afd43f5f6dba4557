"""Finds decoders in a graph of standard operators into which `ai.fggp` functions were inlined."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from fggp_deploy.format.encodings import ENCODINGS, PackedEncoding
from fggp_deploy.graph.constants import constant_initializers
from fggp_deploy.graph.nodes import attribute_protos, producers


@dataclass(frozen=True)
class Decoder:
    """Nodes that make a weight from initializers.

    `parts`: which initializer holds which part of the encoding. `attributes`: the weight's shape
    and the encoding's own attributes. `output`: the tensor that holds the weight. `inside`: every
    tensor that the nodes make.
    """

    encoding: type[PackedEncoding]
    parts: Mapping[str, str]
    attributes: Mapping[str, tuple[int, ...]]
    output: str
    inside: frozenset[str]


def find_decoders(model: ModelProto) -> list[Decoder]:
    """All decoders of a graph: nodes that are the body of one, down to the parts of a weight."""
    made_by = producers(model.graph.node)
    constants = constant_initializers(model.graph).keys()
    bodies = [_Body.of(encoding) for encoding in ENCODINGS]
    found = (body.match(output, made_by) for output in made_by for body in bodies)
    return [d for d in found if d is not None and _holds_parts(d, constants)]


def _holds_parts(decoder: Decoder, constants: Collection[str]) -> bool:
    """Whether the parts are constants that are named as parts."""
    return decoder.parts.keys() == set(decoder.encoding.parts) and all(
        name in constants and name.endswith(f".{part}") for part, name in decoder.parts.items()
    )


@dataclass(frozen=True)
class _Body:
    """An encoding's decoder: the node that makes each tensor, and the tensor of the last node."""

    encoding: type[PackedEncoding]
    made_by: Mapping[str, NodeProto]
    weight: str

    @classmethod
    def of(cls, encoding: type[PackedEncoding]) -> _Body:
        nodes = encoding.decoder_body()
        return cls(encoding, producers(nodes), nodes[-1].output[0])

    def match(self, output: str, made_by: Mapping[str, NodeProto]) -> Decoder | None:
        """The decoder that makes a graph's tensor, if its nodes are the body's, one by one."""
        names = {self.weight: output}  # of the body → of the graph
        attributes: dict[str, tuple[int, ...]] = {}
        todo = [self.weight]
        while todo:
            name = todo.pop()
            ours, theirs = self.made_by[name], made_by.get(names[name])
            if theirs is None or not _same_operator(ours, theirs, attributes):
                return None
            for mine, other in zip(ours.input, theirs.input, strict=True):
                if mine not in names and mine in self.made_by:
                    todo.append(mine)
                if names.setdefault(mine, other) != other:
                    return None
        parts = {part: names[part] for part in self.encoding.parts if part in names}
        inside = frozenset(theirs for mine, theirs in names.items() if mine in self.made_by)
        return Decoder(self.encoding, parts, attributes, output, inside)


def _same_operator(
    wanted: NodeProto, node: NodeProto, attributes: dict[str, tuple[int, ...]]
) -> bool:
    """Whether a node is one of a body; puts the values of the function's attributes there."""
    if wanted.op_type != node.op_type or len(node.output) != 1:
        return False
    if len(wanted.input) != len(node.input) or len(wanted.attribute) != len(node.attribute):
        return False
    given = attribute_protos(node)
    for ours in wanted.attribute:
        theirs = given.get(ours.name)
        if theirs is None or theirs.type != ours.type:
            return False
        if ours.ref_attr_name:
            attributes[ours.ref_attr_name] = tuple(theirs.ints)
        elif theirs.SerializeToString(deterministic=True) != ours.SerializeToString(
            deterministic=True
        ):
            return False
    return True
