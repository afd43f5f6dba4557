"""Finding regions: connected layers that run as one kernel program, in the kernels' own layout.

The layers of a region are connected by values, so all have the same batch. They are all on rows, or
none is. A region is convex: no path leaves it and returns, because a layer that depends on a region
through an outside node gets a later level.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import GraphProto

from fggp_deploy.graph.nodes import names_inside
from fggp_deploy.runtime.lowering.layer import LoweredLayer
from fggp_deploy.runtime.lowering.matching import match_layers
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph, Shapes

_Link = tuple[str, bool]  # (value, whether its reader works on rows)


@dataclass(frozen=True)
class _Level:
    """Where a value is made; `on_rows` is that of its layer, None if no layer makes it."""

    number: int
    on_rows: bool | None


@dataclass
class Region:
    """Layers in order, the values that enter and those that leave."""

    layers: list[LoweredLayer]
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    @property
    def on_rows(self) -> bool:
        """Whether its values hold rows (see `LoweredLayer`)."""
        return self.layers[0].on_rows


def find_regions(
    graph: GraphProto, shapes: Shapes, *, without: Collection[str] = ()
) -> list[Region]:
    """The regions of a topologically sorted graph of standard operators, in order.

    `shapes` are those of float values. Layers whose output is in `without` are left alone. A
    value that a subgraph reads leaves its region.
    """
    g = ShapedGraph(graph, shapes)
    layers, owner = match_layers(g, without)
    level: dict[str, _Level] = {}  # of each value
    levels: dict[int, list[LoweredLayer]] = defaultdict(list)
    done: set[int] = set()
    for node in graph.node:
        index = owner.get(node.output[0])
        if index is None:
            reads = (*node.input, *names_inside(node))
            at = _level_behind(reads, level, on_rows=None)
            level.update(dict.fromkeys(node.output, _Level(at, None)))
        elif node.output[0] == layers[index].output and index not in done:
            done.add(index)
            layer = layers[index]
            at = _level_behind(layer.inputs, level, on_rows=layer.on_rows)
            level[layer.output] = _Level(at, layer.on_rows)
            levels[at].append(layer)
    regions = [Region(part) for _, together in sorted(levels.items()) for part in _parts(together)]
    for region in regions:
        _find_borders(region, g)
    return [r for r in regions if any(x.learned is not None for x in r.layers)]


def _parts(layers: Sequence[LoweredLayer]) -> list[list[LoweredLayer]]:
    """The connected parts of these layers."""
    parent: dict[_Link, _Link] = {}

    def root(link: _Link) -> _Link:
        while (above := parent.setdefault(link, link)) != link:
            parent[link] = parent[above]
            link = above
        return link

    for layer in layers:
        for name in layer.inputs:
            parent[root((name, layer.on_rows))] = root((layer.output, layer.on_rows))
    parts: dict[_Link, list[LoweredLayer]] = defaultdict(list)
    for layer in layers:
        parts[root((layer.output, layer.on_rows))].append(layer)
    return list(parts.values())


def _level_behind(
    names: Iterable[str], level: Mapping[str, _Level], *, on_rows: bool | None
) -> int:
    """The level of a node that reads these values: that of layers with which it may share a region.

    `on_rows` is None for a node that no region can hold.
    """
    known = [level[n] for n in names if n in level]
    return max((s.number + (s.on_rows not in (None, on_rows)) for s in known), default=0)


def _find_borders(region: Region, g: ShapedGraph) -> None:
    inside = {n.output[0] for layer in region.layers for n in layer.nodes}
    made = {layer.output for layer in region.layers}
    for layer in region.layers:
        for name in layer.inputs:
            if name not in made and name not in region.inputs:
                region.inputs.append(name)
        outside = any(n.output[0] not in inside for n in g.readers(layer.output))
        if outside or layer.output in g.read_outside:
            region.outputs.append(layer.output)
