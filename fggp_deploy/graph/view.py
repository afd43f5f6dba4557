"""One view of an ONNX graph: its constants, and which nodes make and read each value.

It is built on protobuf and not on onnx-ir. Untrusted files are checked in the form in which they
arrive, and what a rewrite does not change must keep its bytes. Importing onnx-ir also takes longer
than importing onnx and onnxruntime together, which would slow down the start of every session.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy.typing as npt
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from fggp_deploy.graph.constants import constant_initializers, constant_value, initializers
from fggp_deploy.graph.nodes import names_read_inside, producers

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Use:
    """One reading of a value: input `index` of `node`."""

    node: NodeProto
    index: int


class GraphView:
    """A graph, indexed by its values; each index is made when it is first needed.

    It does not follow changes that are made to the graph after that.
    """

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph

    @cached_property
    def initializers(self) -> dict[str, TensorProto]:
        """All initializers by name, also those that a caller can replace."""
        return initializers(self.graph)

    @cached_property
    def constants(self) -> dict[str, TensorProto]:
        """Initializers that no caller can replace, and the tensors of Constant nodes, by name."""
        found = constant_initializers(self.graph)
        for node in self.graph.node:
            if (tensor := constant_value(node)) is not None:
                found[node.output[0]] = tensor
        return found

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        """The node that makes each value."""
        return producers(self.graph.node)

    @cached_property
    def uses(self) -> dict[str, list[Use]]:
        """How the graph's nodes use each value; an empty list for a value that none uses."""
        found: dict[str, list[Use]] = defaultdict(list)
        for node in self.graph.node:
            for index, name in enumerate(node.input):
                found[name].append(Use(node, index))
        return found

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name that a value of the graph has: a new value needs another one."""
        ends = (v.name for v in (*self.graph.input, *self.graph.output))
        return frozenset((*ends, *self.initializers, *self.uses, *self.producers))

    @cached_property
    def read_outside(self) -> frozenset[str]:
        """Values that are read by subgraphs, or by the caller as graph outputs."""
        outputs = (v.name for v in self.graph.output)
        return frozenset((*outputs, *names_read_inside(self.graph)))

    def constant(self, name: str) -> Array | None:
        """The numbers of a constant; None for any other value."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def readers(self, name: str) -> list[NodeProto]:
        """The graph's nodes that read a value, once for each of their inputs that it is."""
        return [use.node for use in self.uses.get(name, ())]

    def only_reader(self, name: str) -> NodeProto | None:
        """The node that reads a value; None if more than one does, or something outside."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and name not in self.read_outside else None
