"""Planning by measurement: tune the kernels, price the layers, choose the fastest model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from onnx import ModelProto

from fggp_deploy import kernels
from fggp_deploy.common.timing import TimedCall
from fggp_deploy.errors import KernelsDisagree
from fggp_deploy.graph.comparison import parity_of, rtol_for
from fggp_deploy.graph.qdq import has_quantized_activations
from fggp_deploy.runtime import selection
from fggp_deploy.runtime.costs import LayerCost, dense_costs, layer_costs, leave_to_ort
from fggp_deploy.runtime.lowering.shaped_graph import Shapes
from fggp_deploy.runtime.named_shapes import measured_sizes
from fggp_deploy.runtime.plan import CompiledModel, CompileRequest, Plan
from fggp_deploy.runtime.reasons import NO_LAYER_FITS
from fggp_deploy.runtime.regions.programs import (
    RegionProgram,
    Sizes,
    build_programs,
    describe,
    fitting,
)
from fggp_deploy.runtime.regions.rewriting import rewrite
from fggp_deploy.runtime.sessions import Array, run

WHOLE, CUT = "whole", "cut"  # contenders: all layers that the kernels can compute, or fewer of them


class MeasuredPlanner:
    """Plans one model by measurement: `tune` its regions, `price` its layers, `run` all of it."""

    def __init__(
        self,
        dense: ModelProto,
        shapes: Shapes,
        regions: list[RegionProgram],
        feeds: dict[str, Any],
        request: CompileRequest,
    ) -> None:
        self.dense, self.shapes = dense, shapes
        self.feeds, self.request = feeds, request
        self.dense_bytes: bytes = dense.SerializeToString()
        self.isa = kernels.chosen_isa()
        self.sizes: Sizes = {}
        self.regions, self.unfit = fitting(dense, shapes, regions, self._measure_sizes)

    def _measure_sizes(self, regions: list[RegionProgram]) -> Sizes:
        self.sizes = measured_sizes(self.dense, _values_of(regions), self.feeds)
        return self.sizes

    def run(self) -> CompiledModel:
        """The fastest of the dense form, all regions, and the regions that pay by the prices."""
        if not self.regions:
            return CompiledModel.standard(NO_LAYER_FITS)
        self.tune()
        costs, proposed = self.price()
        chosen = {WHOLE: (self.regions, self._compiled(self.regions))}
        if proposed:
            fewer = build_programs(self.dense, self.shapes, without=proposed | self.unfit)
            variants = {
                layer.output: [s.variant for s in region.steps[steps]]
                for region in self.regions
                for layer, steps in region.layers()
            }
            for region in fewer:
                region.set_variants(variants)
            if fewer:
                chosen[CUT] = (fewer, self._compiled(fewer))
        found = self._choose({name: model for name, (_, model) in chosen.items()})
        seconds = self.request.tuning_seconds
        if found.name is None:
            costs = [replace(c, on_kernels=False) for c in costs]
            reason = f"no faster beyond doubt, ratio {found.low:.2f} to {found.high:.2f}"
            return CompiledModel(_plan(False, reason, found, seconds), None, costs)
        regions, model = chosen[found.name]
        if found.name == CUT:
            costs = [replace(c, on_kernels=c.output not in proposed) for c in costs]
        reason = (
            f"{describe(regions)}, at least {found.low:.2f} times dense, tuned for {seconds:g} s"
        )
        return CompiledModel(_plan(True, reason, found, seconds), model, costs)

    def tune(self) -> None:
        """Choose the variant of every layer by timing; every step gets the same time."""
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

    def _compiled(self, regions: list[RegionProgram]) -> bytes:
        model = rewrite(self.dense, regions, threads=self.request.threads)
        content: bytes = model.SerializeToString()
        return content

    def _choose(self, models: Mapping[str, bytes]) -> selection.Selection:
        self.request.progress("comparing with ONNX Runtime", 0, 1)
        options = self.request.options
        want: list[Array] = []

        def dense() -> TimedCall:
            session = options.open(self.dense_bytes)
            want[:] = run(session, self.feeds, "the model")
            return partial(session.run, None, self.feeds)

        def unoptimized() -> list[Array]:
            session = options.open(self.dense_bytes, optimize=False)
            return run(session, self.feeds, "the model")

        def fast(model: bytes) -> TimedCall:
            session = options.open(model, on_kernels=True)
            got = run(session, self.feeds, "the model")
            rtol = rtol_for(in_bytes=has_quantized_activations(self.dense))
            found = parity_of(got, want, rtol=rtol, unoptimized=unoptimized)
            if not found.passed:
                raise KernelsDisagree(
                    "the sparse kernels disagree with ONNX Runtime: their outputs "
                    f"on noise differ by {found.error:.1e} of the largest output, which is more "
                    f"than {found.limit:.1e}; please report this with the file"
                )
            return partial(session.run, None, self.feeds)

        return selection.choose(
            {selection.DENSE: dense} | {n: partial(fast, m) for n, m in models.items()}
        )


def _values_of(regions: list[RegionProgram]) -> list[str]:
    """The values whose sizes decide what regions cost."""
    found: dict[str, None] = {}
    for region in (built.region for built in regions):
        found |= dict.fromkeys(region.inputs)
        for layer in region.layers:
            found |= dict.fromkeys((layer.nodes[0].output[0], layer.output))
    return list(found)


def _plan(sparse: bool, reason: str, found: selection.Selection, seconds: float) -> Plan:
    if found.busy:
        reason += ", measured on a busy machine; it will be planned again"
    return Plan(sparse, reason, found.low, seconds, found.busy)
