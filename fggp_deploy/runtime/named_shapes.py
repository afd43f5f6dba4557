"""Shapes of the values of a graph, in which every open dimension has a name.

A dimension is a number, or a name if the graph leaves it open. Equal names mean equal sizes;
different names say nothing. So two values have the same shape only if their dimensions are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from fggp_deploy.graph.constants import constant_initializers
from fggp_deploy.graph.nodes import attributes
from fggp_deploy.graph.shapes import inferred
from fggp_deploy.runtime.lowering.shaped_graph import Dim, Shapes, is_known, sizes
from fggp_deploy.runtime.lowering.window import Window
from fggp_deploy.runtime.sessions import SessionConfig, run

# Larger constants hold no shapes. Shape inference would copy them, so it does not see them.
SHAPE_CONSTANT = 1024
_BROADCAST = frozenset({"Add", "Sub", "Mul", "Div"})
_WINDOW = frozenset({"Conv", "MaxPool", "AveragePool"})


def value_shapes(model: ModelProto) -> Shapes:
    """The shapes of float values except constants, as far as their ranks are known."""
    light = _without_weights(model)
    declared = _name_inputs_(light)
    graph = inferred(light)
    known = [*graph.value_info, *graph.input, *graph.output]
    shapes = {v.name: _dims(v) for v in known if v.type.tensor_type.HasField("shape")}
    fixed = constant_initializers(model.graph)
    shapes |= {name: list(t.dims) for name, t in fixed.items()}
    _name_the_rest_(light.graph.node, shapes, declared)
    kept = {v.name for v in known if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    kept -= fixed.keys()
    return {name: shape for name, shape in shapes.items() if name in kept}


def measured_sizes(
    model: ModelProto, names: Sequence[str], feeds: Mapping[str, Any]
) -> dict[str, list[int]]:
    """The sizes that float values have when the network is given `feeds`.

    What shape inference does not know is taken from a run of ONNX Runtime. Raises ModelFileError
    if the model does not run.
    """
    given = ModelProto()
    given.CopyFrom(model)
    del given.graph.value_info[:]
    for value in given.graph.input:
        if value.name in feeds:
            kind = value.type.tensor_type.elem_type
            shape = feeds[value.name].shape
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shape))
    for value in given.graph.output:
        value.type.tensor_type.ClearField("shape")
    shapes = value_shapes(given)
    found = {n: sizes(shapes[n]) for n in names if n in shapes and is_known(shapes[n])}
    rest = [n for n in names if n not in found]
    if rest:
        found |= _sizes_by_running(given, rest, feeds)
    return found


def _sizes_by_running(
    model: ModelProto, names: Sequence[str], feeds: Mapping[str, Any]
) -> dict[str, list[int]]:
    """The same, from values that become outputs of `model`."""
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = SessionConfig(1).open(model.SerializeToString())
    values = run(session, feeds, "the model")
    return {name: list(v.shape) for name, v in zip(names, values, strict=True)}


def _without_weights(model: ModelProto) -> ModelProto:
    """The model with its large constants as inputs, so that it is small."""
    graph = model.graph
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    light.graph.input.extend(graph.input)
    for name, t in constant_initializers(graph).items():
        if math.prod(t.dims) <= SHAPE_CONSTANT:
            light.graph.initializer.append(t)
        else:
            light.graph.input.append(helper.make_tensor_value_info(name, t.data_type, t.dims))
    return light


def _dims(value: ValueInfoProto) -> list[Dim]:
    """Its dimensions; an empty name for one that the graph neither knows nor names."""
    return [
        d.dim_value if d.dim_value > 0 else d.dim_param for d in value.type.tensor_type.shape.dim
    ]


def _name_inputs_(model: ModelProto) -> set[str]:
    """Let all names be those of the inputs' open dimensions, and none be missing; the names.

    Shape inference then propagates them, and names that a file gives to other values are ignored.
    """
    for value in (*model.graph.value_info, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    names: set[str] = set()
    for value in model.graph.input:
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 1:
                dim.dim_param = dim.dim_param or _own_name(value.name, i)
                names.add(dim.dim_param)
    return names


def _own_name(value: str, axis: int) -> str:
    return f"?{value}.{axis}"


def _name_the_rest_(nodes: Iterable[NodeProto], shapes: Shapes, declared: set[str]) -> None:
    """Name what the inputs' names do not reach, and equal sizes alike if that is known.

    Shape inference propagates names, but makes up a new one for what a window leaves of an open
    size, and for the sum of two such values.
    """
    windows: dict[tuple[Any, ...], str] = {}
    final: dict[Dim, Dim] = {name: name for name in declared}  # by the name of shape inference
    for node in nodes:
        inputs = [shapes.get(name, []) for name in node.input]
        for output in filter(None, node.output):
            dims = shapes.get(output, [])
            for axis, dim in enumerate(dims):
                if isinstance(dim, int):
                    continue
                if dim not in final:
                    own = _own_name(output, axis)
                    dims[axis] = _same_as(node, axis, len(dims), inputs, windows, own) or own
                else:
                    dims[axis] = final[dim]
                if dim:
                    final[dim] = dims[axis]
    for value, dims in shapes.items():  # what no node of the graph makes
        dims[:] = [_own_name(value, i) if d == "" else d for i, d in enumerate(dims)]


def _same_as(
    node: NodeProto,
    axis: int,
    rank: int,
    inputs: Sequence[list[Dim]],
    windows: dict[tuple[Any, ...], str],
    own: str,
) -> Dim | None:
    """The dimension that `axis` of a node's output equals; None if that is not known."""
    if node.domain not in ("", "ai.onnx") or not inputs:
        return None
    first = inputs[0]
    if node.op_type in _BROADCAST and len(inputs) == 2:
        return _broadcast(axis - rank, *inputs)
    if node.op_type in _WINDOW and rank == len(first) == 4 and axis >= 2:
        kernel = tuple(inputs[1][2:]) if node.op_type == "Conv" else ()
        return _slid(node, kernel, axis - 2, first[axis], windows, own)
    return None


def _broadcast(axis: int, a: list[Dim], b: list[Dim]) -> Dim | None:
    """What two dimensions, counted from the last, become; None if that depends on their sizes."""
    sides = {shape[axis] for shape in (a, b) if -axis <= len(shape)} - {1}
    return sides.pop() if len(sides) == 1 else None


def _slid(
    node: NodeProto,
    weight: tuple[Dim, ...],
    axis: int,
    size: Dim,
    windows: dict[tuple[Any, ...], str],
    own: str,
) -> Dim | None:
    """How often a window fits: `size` again if nothing is lost, else one name for equal windows."""
    a = attributes(node)
    kernel = a.get("kernel_shape", weight)
    window = Window.of(a, kernel)
    if window is None or not is_known(list(kernel)):
        return None
    stride, lost = window.strides[axis], window.reach(axis) - sum(window.padding(axis))
    if stride == 1 and lost == 1:
        return size
    return windows.setdefault((size, lost, stride, a.get("ceil_mode", 0)), own)
