"""Finding regions: connected layers that run as one kernel program, in the kernels' own layout.

The layers of a region are connected by values, so all have the same batch. A region is convex: no
path leaves it and returns, because a layer behind another node that reads a region belongs to a
later stage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from onnx import GraphProto

from fggp_deploy.graph.nodes import names_inside
from fggp_deploy.runtime.lowering.layer import LoweredLayer
from fggp_deploy.runtime.lowering.matching import match_layers
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph, Shapes


@dataclass
class Region:
    """Layers in order, the values that enter and those that leave."""

    layers: list[LoweredLayer]
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def find_regions(
    graph: GraphProto, shapes: Shapes, *, without: Collection[str] = ()
) -> list[Region]:
    """The regions of a topologically sorted graph of standard operators, in order.

    `shapes` are those of float values. Layers whose output is in `without` are left alone. A
    value that a subgraph reads leaves its region.
    """
    g = ShapedGraph(graph, shapes)
    layers, owner = match_layers(g, without)
    stage: dict[str, tuple[int, bool]] = {}  # value -> stage, made by a layer
    stages: dict[int, list[LoweredLayer]] = defaultdict(list)
    done: set[int] = set()
    for node in graph.node:
        index = owner.get(node.output[0])
        if index is None:
            reads = (*node.input, *names_inside(node))
            at = max((s + ours for s, ours in _stages(reads, stage)), default=0)
            stage.update(dict.fromkeys(node.output, (at, False)))
        elif node.output[0] == layers[index].output and index not in done:
            done.add(index)
            layer = layers[index]
            at = max((s for s, _ in _stages(layer.inputs, stage)), default=0)
            stage[layer.output] = (at, True)
            stages[at].append(layer)
    regions = [Region(part) for _, together in sorted(stages.items()) for part in _parts(together)]
    for region in regions:
        _find_borders(region, g)
    return [r for r in regions if any(x.learned is not None for x in r.layers)]


def _parts(layers: Sequence[LoweredLayer]) -> list[list[LoweredLayer]]:
    """The connected parts of these layers."""
    parent: dict[str, str] = {}

    def root(value: str) -> str:
        while (above := parent.setdefault(value, value)) != value:
            parent[value] = parent[above]
            value = above
        return value

    for layer in layers:
        for name in layer.inputs:
            parent[root(name)] = root(layer.output)
    parts: dict[str, list[LoweredLayer]] = defaultdict(list)
    for layer in layers:
        parts[root(layer.output)].append(layer)
    return list(parts.values())


def _stages(names: Iterable[str], stage: dict[str, tuple[int, bool]]) -> list[tuple[int, bool]]:
    return [stage[n] for n in names if n in stage]


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
