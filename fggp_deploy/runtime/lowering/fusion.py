"""Fuses the nodes after a layer into it: an addition, an activation, quantization."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from fggp_deploy.kernels.program import ADD, CONV, GEMM, NO_ACTIVATION
from fggp_deploy.runtime.lowering.activation import activation_of
from fggp_deploy.runtime.lowering.elementwise import can_add
from fggp_deploy.runtime.lowering.layer import LoweredLayer
from fggp_deploy.runtime.lowering.quantization import quantized
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph


def extend_(
    layer: LoweredLayer, g: ShapedGraph, *, position: dict[str, int], taken: Collection[str]
) -> None:
    """Fuse the nodes after a layer into its last step, in the order in which a step applies them.

    `position` is where in the graph each value is made; values in `taken` belong to other layers.
    """
    op = layer.steps[-1].op
    if op in (CONV, GEMM):
        _take_addition_(layer, g, position, taken)
    if op in (CONV, GEMM, ADD) and layer.steps[-1].activation == NO_ACTIVATION:
        _take_activation_(layer, g)
    if op in (CONV, ADD) and len(g.shape(layer.output)) == 4 and not layer.on_rows:
        _take_quantization_(layer, g)


def _take_addition_(
    layer: LoweredLayer, g: ShapedGraph, position: dict[str, int], taken: Collection[str]
) -> None:
    reader = g.only_reader(layer.output)
    if reader is None or reader.op_type != "Add" or reader.output[0] in taken:
        return
    other = next((name for name in reader.input if name != layer.output), "")
    # If two layers meet, the later one adds: then the other value is ready.
    ready = position.get(other, -1) < position[layer.output]
    if ready and can_add(layer.output, other, g):
        layer.nodes.append(reader)
        layer.inputs.append(other)
        layer.output = reader.output[0]


def _take_activation_(layer: LoweredLayer, g: ShapedGraph) -> None:
    reader = g.only_reader(layer.output)
    activation = activation_of(reader, g) if reader is not None else None
    if reader is not None and activation is not None:
        layer.nodes.append(reader)
        layer.output = reader.output[0]
        layer.steps[-1] = replace(layer.steps[-1], activation=activation)


def _take_quantization_(layer: LoweredLayer, g: ShapedGraph) -> None:
    to = g.only_reader(layer.output)
    back = g.only_reader(to.output[0]) if to is not None else None
    found = quantized(to, back, g) if to is not None else None
    if to is not None and back is not None and found is not None and found.zero_point == 0:
        layer.nodes += [to, back]
        layer.output = back.output[0]
        layer.steps[-1] = replace(layer.steps[-1], scale=found.scale)
