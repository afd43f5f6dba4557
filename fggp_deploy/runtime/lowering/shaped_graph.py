"""A graph of standard operators with the shapes of its values."""

from __future__ import annotations

from onnx import GraphProto

from fggp_deploy.graph.view import GraphView

Dim = int | str  # a size, or the name of one that the graph leaves open
Shapes = dict[str, list[Dim]]


class ShapedGraph(GraphView):
    """A view of a graph with the shapes of its float values."""

    def __init__(self, graph: GraphProto, shapes: Shapes) -> None:
        super().__init__(graph)
        self.shapes = shapes

    def shape(self, value: str) -> list[int]:
        """Its sizes, 0 for an open one; empty if the rank is unknown or the value is not float."""
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
