"""Regions: layers that touch, in the kernels' own layout from end to end.

A region is convex: no path leaves it and comes back, because a layer behind a foreign node that
reads a region belongs to a later stage.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from onnx import GraphProto

from fggp_deploy.runtime.graph import Graph, Layer
from fggp_deploy.runtime.layers import match_layers


@dataclass
class Region:
    """Layers in order, the values that enter and those that leave."""

    layers: list[Layer]
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def find_regions(
    graph: GraphProto, shapes: dict[str, list[int]], *, without: Collection[str] = ()
) -> list[Region]:
    """The regions of a topologically sorted graph of standard operators, in order.

    `shapes` holds what is known of the shapes of float values, 0 for a dimension that is not.
    Layers whose output is in `without` are left alone.
    """
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return []  # a subgraph may read any value of ours
    g = Graph(graph, shapes)
    layers, owner = match_layers(g, without)
    stage: dict[str, tuple[int, bool]] = {}  # value -> stage, made by a layer
    regions: dict[int, Region] = {}
    done: set[int] = set()
    for node in graph.node:
        index = owner.get(node.output[0])
        if index is None:
            at = max((s + ours for s, ours in _stages(node.input, stage)), default=0)
            stage.update(dict.fromkeys(node.output, (at, False)))
        elif node.output[0] == layers[index].output and index not in done:
            done.add(index)
            layer = layers[index]
            at = max((s for s, _ in _stages(layer.inputs, stage)), default=0)
            stage[layer.output] = (at, True)
            regions.setdefault(at, Region([])).layers.append(layer)
    for region in regions.values():
        _find_borders(region, g)
    return [r for _, r in sorted(regions.items()) if any(x.learned is not None for x in r.layers)]


def _stages(names: Any, stage: dict[str, tuple[int, bool]]) -> list[tuple[int, bool]]:
    return [stage[n] for n in names if n in stage]


def _find_borders(region: Region, g: Graph) -> None:
    inside = {n.output[0] for layer in region.layers for n in layer.nodes}
    made = {layer.output for layer in region.layers}
    for layer in region.layers:
        for name in layer.inputs:
            if name not in made and name not in region.inputs:
                region.inputs.append(name)
        outside = any(n.output[0] not in inside for n in g.readers[layer.output])
        if outside or layer.output in g.kept:
            region.outputs.append(layer.output)
