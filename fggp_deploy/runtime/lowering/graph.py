"""A graph of standard operators as the matchers read it, and the layers that they find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from onnx import GraphProto, NodeProto

from fggp_deploy.graph.view import GraphView

Array = npt.NDArray[Any]
Dim = int | str  # a size, or the name of one that the graph leaves open
Shapes = dict[str, list[Dim]]


@dataclass
class Layer:
    """Nodes that become one or two steps; `inputs` are the values that they read.

    The first `n_weighted` nodes are one operator with `weight` and `bias`: a Conv or a Gemm, or
    what can be said as one.
    """

    nodes: list[NodeProto]
    inputs: list[str]
    output: str
    steps: list[dict[str, Any]]
    weight: Array | None = None
    bias: Array | None = None
    n_weighted: int = 0

    @property
    def learned(self) -> Array | None:
        """The weight, where it is the network's own: of a convolution or a linear layer."""
        return self.weight if self.nodes[0].op_type in ("Conv", "Gemm", "MatMul") else None


class Graph(GraphView):
    """A view of a graph with the shapes of its float values."""

    def __init__(self, graph: GraphProto, shapes: Shapes) -> None:
        super().__init__(graph)
        self.shapes = shapes

    def shape(self, value: str) -> list[int]:
        """Its sizes, 0 for an open one; empty if the rank is unknown, or it is not of floats."""
        return sizes(self.shapes.get(value, []))

    def same_shape(self, a: str, b: str) -> bool:
        """Whether two values of known rank have the same shape, whatever sizes are open."""
        return a in self.shapes and self.shapes[a] == self.shapes.get(b)


def sizes(dims: list[Dim]) -> list[int]:
    """The dimensions as numbers, 0 for an open one."""
    return [d if isinstance(d, int) else 0 for d in dims]


def is_known(dims: list[Dim]) -> bool:
    """Whether no dimension is open."""
    return all(isinstance(d, int) for d in dims)


def window(a: dict[str, Any], kernel: tuple[int, ...]) -> dict[str, Any] | None:
    """The geometry of a two-dimensional Conv or pooling; None for any other."""
    if len(kernel) != 2 or a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    pads = a.get("pads", [0] * 4) if a.get("auto_pad", b"NOTSET") == b"NOTSET" else [0] * 4
    return {
        "kernel": tuple(kernel),
        "strides": tuple(a.get("strides", [1, 1])),
        "dilations": tuple(a.get("dilations", [1, 1])),
        "pads": tuple(pads),
    }


def single(node: NodeProto, *ops: int) -> Layer:
    """A node without weights as these steps."""
    return Layer([node], [node.input[0]], node.output[0], [{"op": op} for op in ops])
