"""Regions of a standard graph as kernel programs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from fggp_deploy import kernels
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.choice import choose_for_kernels
from fggp_deploy.kernels import program as p
from fggp_deploy.runtime.lowering.layer import LoweredLayer
from fggp_deploy.runtime.lowering.shaped_graph import Shapes, sizes
from fggp_deploy.runtime.named_shapes import value_shapes
from fggp_deploy.runtime.regions.finding import Region, find_regions

Array = npt.NDArray[Any]
Sizes = Mapping[str, list[int]]  # sizes by value, of the run that is planned for
MAX_REGIONS = 256  # as kRegions in csrc/api/ort_ops.cpp
# Below this share of zeros a layer's kernel has no chance against ONNX Runtime's dense one.
MIN_ZEROS = 0.4


@dataclass
class RegionProgram:
    """A region as a kernel program.

    `shapes` are those of its inputs for one image, or None if they are not known; `images` is the
    number of images that are planned to run at once. Each row is an image if the region is on rows.
    """

    name: str
    region: Region
    steps: list[p.Step]
    constants: list[Array]
    outputs: list[int]
    shapes: list[list[int]] | None
    images: int = 1

    def plan_for(self, sizes: Sizes) -> None:
        """Set the sizes of its inputs to those of the run that is planned for, if all are known."""
        if sizes.keys() >= set(self.region.inputs):
            own = [sizes[name] for name in self.region.inputs]
            self.images = math.prod(own[0][: _leading(self.region, own[0])])
            self.shapes = _of_one_image(self.region, own)

    def runs_on(self, isa: str) -> bool:
        """Whether the library takes inputs of these sizes; nothing is computed."""
        if self.shapes is None:
            return True
        try:
            self.program().run([np.empty((0, *s), np.float32) for s in self.shapes], isa=isa)
        except ModelFileError:
            return False
        return True

    def program(self) -> p.Program:
        """The program in the library; raises ModelFileError if the library refuses it."""
        return p.Program(self.code(), self.constants)

    def code(self) -> list[int]:
        """The integers of its program."""
        return p.encode(self.steps, n_inputs=len(self.region.inputs), outputs=self.outputs)

    def layers(self) -> Iterator[tuple[LoweredLayer, slice]]:
        """Each layer and which of the steps are its own."""
        first = 0
        for layer in self.region.layers:
            yield layer, slice(first, first + len(layer.steps))
            first += len(layer.steps)

    def set_variants(self, chosen: dict[str, list[tuple[int, int]]]) -> None:
        """Set the variants of the layers that `chosen` names by output."""
        for layer, steps in self.layers():
            if layer.output in chosen:
                self.steps[steps] = [
                    dataclasses.replace(s, variant=v)
                    for s, v in zip(self.steps[steps], chosen[layer.output], strict=True)
                ]


def build_programs(
    model: ModelProto, shapes: Shapes | None = None, *, without: Collection[str] = ()
) -> list[RegionProgram]:
    """The regions of a model of standard operators that the library accepts, MAX_REGIONS at most.

    Of more, those with the most multiply-accumulates are taken. `shapes` is what `value_shapes`
    gives; layers whose output is in `without` are left alone.
    """
    shapes = value_shapes(model) if shapes is None else shapes
    left = set(without)
    while True:
        found = _largest(find_regions(model.graph, shapes, without=left), shapes)
        built = [_build_one(f"Region_{i}", region, shapes) for i, region in enumerate(found)]
        refused = [r for r, b in zip(found, built, strict=True) if b is None]
        if not refused:
            return [b for b in built if b is not None]
        for region in refused:
            left |= _refused(region, lambda alone: _build_one("Region_0", alone, {}) is not None)


def _refused(region: Region, takes: Callable[[Region], bool]) -> set[str]:
    """Outputs of the layers that the library does not take alone; of all if it takes each."""
    alone = {x.output: Region([x], list(x.inputs), [x.output]) for x in region.layers}
    return {output for output, one in alone.items() if not takes(one)} or set(alone)


def _leading(region: Region, size: list[int]) -> int:
    """How many dimensions of a value count its images, or its rows."""
    return len(size) - 1 if region.on_rows else 1


def _of_one_image(region: Region, sizes: list[list[int]]) -> list[list[int]] | None:
    """Sizes without the leading dimensions; None if one of them is open or there is none."""
    rest = [s[_leading(region, s) :] for s in sizes]
    return rest if all(s and all(s) for s in rest) else None


def fitting(
    dense: ModelProto,
    shapes: Shapes,
    regions: list[RegionProgram],
    sizes_of: Callable[[list[RegionProgram]], Sizes],
    left: Collection[str] = (),
) -> tuple[list[RegionProgram], set[str]]:
    """The regions, planned for these sizes, and the outputs of layers that the library refuses.

    `left` holds the outputs of layers that the regions exclude already.
    """
    unfit = set(left)
    while True:
        known = sizes_of(regions)
        for region in regions:
            region.plan_for(known)
        more = unfit_layers(regions, known, kernels.chosen_isa())
        if not more:
            return regions, unfit
        unfit |= more
        regions = build_programs(dense, shapes, without=unfit)


def unfit_layers(regions: Iterable[RegionProgram], sizes: Sizes, isa: str) -> set[str]:
    """Outputs of the layers that the library refuses at these sizes, as a window that is too tall.

    Of a region that it refuses although it takes each layer alone, all are.
    """

    def takes(alone: Region) -> bool:
        built = _build_one("Region_0", alone, {})
        if built is None:
            return False
        built.plan_for(sizes)
        return built.runs_on(isa)

    unfit: set[str] = set()
    for built in regions:
        if not built.runs_on(isa):
            unfit |= _refused(built.region, takes)
    return unfit


def describe(regions: list[RegionProgram]) -> str:
    """How many layers and regions there are, in words."""
    n_layers = sum(x.learned is not None for r in regions for x in r.region.layers)
    text = f"{n_layers} layers in {len(regions)} region{'s' * (len(regions) != 1)}"
    if len(regions) == MAX_REGIONS:
        text += ", the maximum; smaller ones stay with onnxruntime"
    return text


def share_of_zeros(regions: list[RegionProgram]) -> float:
    """Zeros among the weights, without those of one input channel, which stay dense everywhere."""
    every = [x.learned for r in regions for x in r.region.layers if x.learned is not None]
    weights = [w for w in every if w.shape[1] > 1]
    n_all = sum(w.size for w in weights)
    return 1 - sum(map(np.count_nonzero, weights)) / n_all if n_all else 0.0


def _largest(regions: list[Region], shapes: Shapes) -> list[Region]:
    """The MAX_REGIONS of most multiply-accumulates, in order; open dimensions count as 1."""

    def made(layer: LoweredLayer) -> list[int]:
        return [size or 1 for size in sizes(shapes.get(layer.nodes[0].output[0], []))]

    def macs(index: int) -> int:
        return sum(layer.macs(made(layer)) for layer in regions[index].layers)

    kept = sorted(range(len(regions)), key=macs, reverse=True)[:MAX_REGIONS]
    return [regions[i] for i in sorted(kept)]


def _build_one(name: str, region: Region, shapes: Shapes) -> RegionProgram | None:
    numbers = {value: i for i, value in enumerate(region.inputs)}
    steps: list[p.Step] = []
    constants: list[Array] = []
    for layer in region.layers:
        source = numbers[layer.inputs[0]]
        residual = numbers[layer.inputs[1]] if len(layer.inputs) > 1 else -1
        own = [dataclasses.replace(step, residual=residual) for step in layer.steps]
        if layer.weight is not None:  # then there is one step
            format_, parts_and_bias = _packed(layer)
            own[0] = dataclasses.replace(own[0], constant=len(constants), format=format_)
            constants += parts_and_bias
        for step in own:
            steps.append(dataclasses.replace(step, input=source))
            source = len(region.inputs) + len(steps) - 1
        numbers[layer.output] = source
    built = RegionProgram(
        name,
        region,
        steps,
        constants,
        [numbers[o] for o in region.outputs],
        _of_one_image(region, [sizes(shapes.get(i, [])) for i in region.inputs]),
    )
    try:  # a region that the library refuses stays as it is
        built.program()
    except ModelFileError:
        return None
    return built


def _packed(layer: LoweredLayer) -> tuple[int, list[Array]]:
    """How a program stores a layer's weight, and its constants: the parts and the bias."""
    weight, bias = layer.weight, layer.bias
    assert weight is not None and bias is not None  # noqa: PT018 - both or neither, by the matchers
    packed = choose_for_kernels(weight, may_be_rounded=layer.learned is not None)
    if packed is None or packed.kernel_format is None:
        return p.DENSE, [weight, bias]
    return packed.kernel_format, [*packed.arrays.values(), bias]
