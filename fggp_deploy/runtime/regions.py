"""What of a standard graph the kernels can run, as programs of the library."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, helper

from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.kernels import program as p
from fggp_deploy.onnx_ops import parts
from fggp_deploy.packing import to_gaps, to_int8
from fggp_deploy.rice import Rice
from fggp_deploy.runtime.chains import Region, find_regions
from fggp_deploy.runtime.graph import Layer

Array = npt.NDArray[Any]
MAX_REGIONS = 64
# Larger constants say nothing about shapes, and are kept from shape inference, which copies them.
SHAPE_CONSTANT = 1024
# Above this share of non-zeros, gaps are no smaller than the dense weight.
DENSE_ABOVE = 0.7


@dataclass
class BuiltRegion:
    """A region as the library takes it; `shapes` are its inputs' for one image, or None."""

    name: str
    region: Region
    steps: list[p.Step]
    constants: list[Array]
    outputs: list[int]
    shapes: list[list[int]] | None

    def program(self) -> p.Program:
        """The region in the library; raises ModelFileError where the library refuses it."""
        return p.Program(self.code(), self.constants)

    def code(self) -> list[int]:
        """The integers of its program."""
        return p.encode(self.steps, n_inputs=len(self.region.inputs), outputs=self.outputs)

    def layers(self) -> Iterator[tuple[Layer, slice]]:
        """Each layer and which of the steps are its own."""
        first = 0
        for layer in self.region.layers:
            yield layer, slice(first, first + len(layer.steps))
            first += len(layer.steps)

    def set_variants(self, chosen: dict[str, list[tuple[int, int]]]) -> None:
        """Take the variants of the layers that are named, by output, in `chosen`."""
        for layer, steps in self.layers():
            if layer.output in chosen:
                self.steps[steps] = [
                    dataclasses.replace(s, variant=v)
                    for s, v in zip(self.steps[steps], chosen[layer.output], strict=True)
                ]


Shapes = dict[str, list[int]]


def value_shapes(model: ModelProto) -> Shapes:
    """What is known of the shapes of float values but constants; 0 for an unknown dimension."""
    inferred = onnx.shape_inference.infer_shapes(_without_weights(model))
    known = [*inferred.graph.value_info, *model.graph.input, *inferred.graph.output]
    return {v.name: _shape(v) for v in known if _is_float(v)}


def _without_weights(model: ModelProto) -> ModelProto:
    """The model with its large constants as inputs, so that it is small."""
    graph = model.graph
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    light.graph.input.extend(graph.input)
    taken = {v.name for v in graph.input}
    for t in graph.initializer:
        if math.prod(t.dims) <= SHAPE_CONSTANT:
            light.graph.initializer.append(t)
        elif t.name not in taken:
            light.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    return light


def find(
    model: ModelProto, shapes: Shapes | None = None, *, without: Collection[str] = ()
) -> list[BuiltRegion]:
    """The regions of a model of standard operators that the library accepts.

    `shapes` is what `value_shapes` gives; layers whose output is in `without` are left alone.
    """
    shapes = value_shapes(model) if shapes is None else shapes
    built: list[BuiltRegion] = []
    for region in find_regions(model.graph, shapes, without=without)[:MAX_REGIONS]:
        candidate = _build(f"Region_{len(built)}", region, shapes)
        if candidate is not None:
            built.append(candidate)
    return built


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [max(0, d.dim_value) for d in value.type.tensor_type.shape.dim]


def _build(name: str, region: Region, shapes: dict[str, list[int]]) -> BuiltRegion | None:
    numbers = {value: i for i, value in enumerate(region.inputs)}
    steps: list[p.Step] = []
    constants: list[Array] = []
    for layer in region.layers:
        source = numbers[layer.inputs[0]]
        for fields in layer.steps:
            extra = dict(fields)
            if layer.weight is not None:
                extra |= {"constant": len(constants), "weights": p.DENSE}
                constants += _packed(layer, extra)
            if len(layer.inputs) > 1:
                extra["residual"] = numbers[layer.inputs[1]]
            steps.append(p.Step(input=source, **extra))
            source = len(region.inputs) + len(steps) - 1
        numbers[layer.output] = source
    static = [shapes.get(i, [])[1:] for i in region.inputs]
    built = BuiltRegion(
        name,
        region,
        steps,
        constants,
        [numbers[o] for o in region.outputs],
        static if all(s and all(s) for s in static) else None,
    )
    try:  # what the library refuses stays as it is
        built.program()
    except ModelFileError:
        return None
    return built


def _packed(layer: Layer, fields: dict[str, Any]) -> list[Array]:
    weight, bias = layer.weight, layer.bias
    assert weight is not None and bias is not None  # noqa: PT018 - both or neither, by _match
    if layer.learned is not None and (whole := _as_int8(weight)) is not None:
        fields["weights"] = p.RICE
        return [*parts(whole).values(), bias]
    if np.count_nonzero(weight) > DENSE_ABOVE * weight.size:
        return [weight, bias]
    fields["weights"] = p.GAPS
    gaps = to_gaps(weight, np.uint8)
    if len(gaps.values) > 1.2 * np.count_nonzero(weight):
        gaps = to_gaps(weight, np.uint16)
    return [gaps.values, gaps.gaps, bias]


def _as_int8(weight: Array) -> Rice | None:
    """A weight with int8 values where those say exactly the same, as after --values int8."""
    for part in (weight[:1], weight):  # nearly all others show it in their first channel
        try:
            whole = to_int8(part)
        except ConfigError:
            return None
        if not np.array_equal(whole.decode(), part):
            return None
    return whole
