"""Planning by measurement: tune the kernels, price the layers, choose the fastest model."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from onnx import ModelProto

from fggp_deploy import kernels
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.common.timing import Run
from fggp_deploy.errors import KernelsDisagree
from fggp_deploy.graph.comparison import agreement, rtol_for
from fggp_deploy.graph.qdq import has_quantized_activations
from fggp_deploy.runtime import selection
from fggp_deploy.runtime.costs import LayerCost, dense_costs, layer_costs, leave_to_ort
from fggp_deploy.runtime.lowering.shaped_graph import Shapes
from fggp_deploy.runtime.plan import Compiled, Plan
from fggp_deploy.runtime.regions import MAX_REGIONS, BuiltRegion, Sizes, find, unfit_layers
from fggp_deploy.runtime.rewriting import rewrite
from fggp_deploy.runtime.sessions import Array, Options, run
from fggp_deploy.runtime.shapes import measured_sizes

NO_LAYER_FITS = "the kernels can compute none of its layers at these sizes"
WHOLE, CUT = "whole", "cut"  # the contenders: every layer that the kernels can compute, or fewer


@dataclass(frozen=True)
class Request:
    """What a model is compiled for: the session's options, and the sizes to plan for.

    `shape` holds the dimensions of the inputs after the first, if the model leaves them open.
    """

    options: Options
    batch: int = 1
    measure: bool = True
    tuning_seconds: float = 0.5
    progress: Progress = silent
    shape: tuple[int, ...] = ()

    @property
    def threads(self) -> int:
        """Threads that the model will run on."""
        return self.options.threads or os.cpu_count() or 1


class Planner:
    """Plans one model by measurement: `tune` its regions, `price` its layers, `run` all of it."""

    def __init__(
        self,
        dense: ModelProto,
        shapes: Shapes,
        regions: list[BuiltRegion],
        feeds: dict[str, Any],
        request: Request,
    ) -> None:
        self.dense, self.shapes = dense, shapes
        self.feeds, self.request = feeds, request
        self.dense_bytes: bytes = dense.SerializeToString()
        self.isa = chosen_isa()
        self.sizes: Sizes = {}
        self.regions, self.unfit = fitting(dense, shapes, regions, self._measure_sizes)

    def _measure_sizes(self, regions: list[BuiltRegion]) -> Sizes:
        self.sizes = measured_sizes(self.dense, _values_of(regions), self.feeds)
        return self.sizes

    def run(self) -> Compiled:
        """The fastest of the dense model, all regions, and the regions that pay by the prices."""
        if not self.regions:
            return Compiled.standard(NO_LAYER_FITS)
        self.tune()
        costs, proposed = self.price()
        chosen = {WHOLE: (self.regions, serialized(self.dense, self.regions, self.request))}
        if proposed:
            fewer = find(self.dense, self.shapes, without=proposed | self.unfit)
            variants = {
                layer.output: [s.variant for s in region.steps[steps]]
                for region in self.regions
                for layer, steps in region.layers()
            }
            for region in fewer:
                region.set_variants(variants)
            if fewer:
                chosen[CUT] = (fewer, serialized(self.dense, fewer, self.request))
        found = self._choose({name: model for name, (_, model) in chosen.items()})
        seconds = self.request.tuning_seconds
        if found.name is None:
            costs = [replace(c, on_kernels=False) for c in costs]
            reason = f"no faster beyond doubt, ratio {found.low:.2f} to {found.high:.2f}"
            return Compiled(_plan(False, reason, found, seconds), None, costs)
        regions, model = chosen[found.name]
        if found.name == CUT:
            costs = [replace(c, on_kernels=c.output not in proposed) for c in costs]
        reason = (
            f"{describe(regions)}, at least {found.low:.2f} times dense, tuned for {seconds:g} s"
        )
        return Compiled(_plan(True, reason, found, seconds), model, costs)

    def tune(self) -> None:
        """Choose the variant of every layer by timing; each step gets the same time."""
        known = [r for r in self.regions if r.shapes]
        n_steps = sum(len(r.steps) for r in known)
        for done, region in enumerate(known):
            self.request.progress("tuning the kernels for this machine", done, len(known))
            seconds = self.request.tuning_seconds * len(region.steps) / n_steps
            assert region.shapes is not None
            pairs = region.program().tune(region.shapes, isa=self.isa, seconds=seconds)
            region.set_variants({x.output: pairs[steps] for x, steps in region.layers()})

    def price(self) -> tuple[list[LayerCost], set[str]]:
        """What each layer costs, and the outputs of those that ONNX Runtime should keep."""
        self.request.progress("comparing layers", 0, 1)
        images = next((len(x) for x in self.feeds.values() if x.ndim > 1), 1)
        values = {node.name for node in self.dense.graph.node}
        dense_us = dense_costs(self.dense_bytes, values, self.feeds)
        costs: list[LayerCost] = []
        left: set[str] = set()
        for region in self.regions:
            if region.shapes is None:
                continue
            own = layer_costs(region, self.sizes, dense_us, images=images, isa=self.isa)
            costs += own
            entering = region.images * sum(math.prod(s) for s in region.shapes)
            left |= leave_to_ort(own, entering // images)
        return costs, left

    def _choose(self, models: Mapping[str, bytes]) -> selection.Choice:
        self.request.progress("comparing with ONNX Runtime", 0, 1)
        options = self.request.options
        want: list[Array] = []

        def dense() -> Run:
            session = options.open(self.dense_bytes)
            want[:] = run(session, self.feeds, "the model")
            return partial(session.run, None, self.feeds)

        def unoptimized() -> list[Array]:
            session = options.open(self.dense_bytes, optimize=False)
            return run(session, self.feeds, "the model")

        def fast(model: bytes) -> Run:
            session = options.open(model, on_kernels=True)
            got = run(session, self.feeds, "the model")
            rtol = rtol_for(in_bytes=has_quantized_activations(self.dense))
            found = agreement(got, want, rtol=rtol, unoptimized=unoptimized)
            if not found.passed:
                raise KernelsDisagree(
                    f"the sparse kernels compute something else than ONNX Runtime: their outputs "
                    f"on noise differ by {found.error:.1e} of the largest output, which is more "
                    f"than {found.limit:.1e}; please report this with the file"
                )
            return partial(session.run, None, self.feeds)

        return selection.choose(
            {selection.DENSE: dense} | {n: partial(fast, m) for n, m in models.items()}
        )


def fitting(
    dense: ModelProto,
    shapes: Shapes,
    regions: list[BuiltRegion],
    sizes_of: Callable[[list[BuiltRegion]], Sizes],
    left: Collection[str] = (),
) -> tuple[list[BuiltRegion], set[str]]:
    """The regions, planned for these sizes, and the outputs of layers that the library refuses.

    `left` holds the outputs of layers that the regions exclude already.
    """
    unfit = set(left)
    while True:
        known = sizes_of(regions)
        for region in regions:
            region.plan_for(known)
        more = unfit_layers(regions, known, chosen_isa())
        if not more:
            return regions, unfit
        unfit |= more
        regions = find(dense, shapes, without=unfit)


def chosen_isa() -> str:
    """The instruction set that the kernels use here; raises MachineError without the library."""
    return os.environ.get("FGGP_ISA") or kernels.isas()[0]


def describe(regions: list[BuiltRegion]) -> str:
    """How many layers and regions there are, in words."""
    n_layers = sum(x.learned is not None for r in regions for x in r.region.layers)
    text = f"{n_layers} layers in {len(regions)} region{'s' * (len(regions) != 1)}"
    if len(regions) == MAX_REGIONS:
        text += ", the maximum; smaller ones stay with onnxruntime"
    return text


def serialized(dense: ModelProto, regions: list[BuiltRegion], request: Request) -> bytes:
    """The compiled model."""
    model: bytes = rewrite(dense, regions, threads=request.threads).SerializeToString()
    return model


def _values_of(regions: list[BuiltRegion]) -> list[str]:
    """The values whose sizes decide what regions cost."""
    found: dict[str, None] = {}
    for region in regions:
        found |= dict.fromkeys(region.region.inputs)
        for layer in region.region.layers:
            found |= dict.fromkeys((layer.nodes[0].output[0], layer.output))
    return list(found)


def _plan(sparse: bool, reason: str, found: selection.Choice, seconds: float) -> Plan:
    if found.busy:
        reason += ", measured on a busy machine; it will be planned again"
    return Plan(sparse, reason, found.low, seconds, found.busy)
