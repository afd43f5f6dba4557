"""The layers of a graph that the kernels can compute."""

from __future__ import annotations

from collections.abc import Collection

from fggp_deploy.graph.nodes import is_standard
from fggp_deploy.kernels.program import ADD
from fggp_deploy.runtime.lowering import (
    activation,
    convolution,
    elementwise,
    linear,
    pooling,
    quantization,
    reshape,
    subsampling,
)
from fggp_deploy.runtime.lowering.fusion import extend_
from fggp_deploy.runtime.lowering.layer import LoweredLayer, Matcher
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph

MATCHERS: dict[str, Matcher] = {
    **activation.MATCHERS,
    **convolution.MATCHERS,
    **elementwise.MATCHERS,
    **linear.MATCHERS,
    **pooling.MATCHERS,
    **quantization.MATCHERS,
    **reshape.MATCHERS,
    **subsampling.MATCHERS,
}


def match_layers(
    g: ShapedGraph, without: Collection[str] = ()
) -> tuple[list[LoweredLayer], dict[str, int]]:
    """The layers of a graph except those whose output is in `without`.

    Also, for each value that is made inside of a layer, the index of that layer.
    """
    layers: list[LoweredLayer] = []
    owner: dict[str, int] = {}
    rows: set[str] = set()
    position = {name: i for i, node in enumerate(g.graph.node) for name in node.output}
    for node in g.graph.node:
        if node.output[0] in owner or not is_standard(node):
            continue
        match = MATCHERS.get(node.op_type)
        layer = match(node, g) if match else None
        if layer is None:
            continue
        if layer.steps[0].op == ADD:  # which works on planes and on rows
            layer.on_rows = len(g.shape(layer.output)) == 3 or not rows.isdisjoint(layer.inputs)
        extend_(layer, g, position=position, taken=owner.keys())
        if layer.output in without:
            continue
        if layer.on_rows:
            rows.add(layer.output)
        for n in layer.nodes:
            owner[n.output[0]] = len(layers)
        layers.append(layer)
    return layers, owner
