"""From a model file to one whose chains of layers are single nodes, where that is faster here."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from fggp_deploy import kernels
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.common.timing import Run
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.regions import compiled_for, is_compiled
from fggp_deploy.format.unpacking import reading, split
from fggp_deploy.graph.comparison import agreement, rtol_for
from fggp_deploy.graph.nodes import subgraphs
from fggp_deploy.graph.qdq import has_quantized_activations
from fggp_deploy.graph.shapes import fix_open_sides_
from fggp_deploy.runtime import plan as plans
from fggp_deploy.runtime.costs import LayerCost, dense_costs, layer_costs, leave_to_ort
from fggp_deploy.runtime.dense import read_dense
from fggp_deploy.runtime.feeds import random_feeds
from fggp_deploy.runtime.lowering.shaped_graph import Shapes, is_known, sizes
from fggp_deploy.runtime.plan import Compiled, Plan
from fggp_deploy.runtime.reasons import why_no_layer
from fggp_deploy.runtime.regions import (
    MAX_REGIONS,
    BuiltRegion,
    Sizes,
    find,
    outgrown_layers,
    unfit_layers,
)
from fggp_deploy.runtime.rewriting import rewrite
from fggp_deploy.runtime.sessions import Array, Options, run, try_out
from fggp_deploy.runtime.shapes import measured_sizes, value_shapes

# Below this share of zeros a layer's kernel has no chance against ONNX Runtime's dense one.
MIN_ZEROS = 0.4
_UNFIT = "the kernels take none of its layers at these sizes"
WHOLE, CUT = "whole", "cut"  # the contenders: every layer that the kernels know, or fewer


@dataclass(frozen=True)
class Request:
    """What is to be compiled, and for what: the caller's options and the batch to plan for.

    `shape`: the inputs' dimensions after the first, where the model leaves them open.
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


def compile_model(data: bytes, request: Request) -> Compiled:
    """Plan a model for this machine; raises ModelFileError for one that cannot be read."""
    compiled = _read_compiled(data)
    if compiled is not None:
        return compiled
    dense = read_dense(data)
    if request.shape:
        fix_open_sides_(dense, dict(enumerate(request.shape, start=1)))
    shapes = value_shapes(dense)
    regions = find(dense, shapes)
    if not regions:
        return _plain(why_no_layer(dense, shapes))
    zeros = _share_of_zeros(regions)
    if zeros < MIN_ZEROS:
        return _plain(
            f"only {zeros:.0%} of its weights are zeros; the kernels can pay from {MIN_ZEROS:.0%}"
        )
    if not request.measure:
        known = {name: sizes(dims) for name, dims in shapes.items() if is_known(dims[1:])}
        left = outgrown_layers(regions, known)
        if left:
            regions = find(dense, shapes, without=left)
        regions, _ = _fitting(dense, shapes, regions, lambda _: known, left)
        if not regions:
            return _plain(_UNFIT)
        text = f"{_size(regions)}, by the cost model, not measured"
        return Compiled(Plan(True, text), _serialized(dense, regions, request))
    try:
        feeds = random_feeds(dense, request.batch)
        if any(True for node in dense.graph.node for _ in subgraphs(node)):  # a Loop may never end
            content: bytes = dense.SerializeToString()
            try_out(lambda: run(Options(1).open(content), feeds, "the model"), "the model")
        return _Planner(dense, shapes, regions, feeds, request).run()
    except ModelFileError as e:  # what plain onnxruntime may run all the same
        return _plain(str(e))


def _read_compiled(data: bytes) -> Compiled | None:
    """A file that was compiled before, as it is; None for any other."""
    with reading("the model"):
        model = onnx.load_model_from_string(data)
    if not is_compiled(model):
        return None
    split(model)  # raises for what breaks the format
    about = compiled_for(model) or {}
    isa, threads = about.get("isa"), about.get("threads")
    made_for = f" for {isa!s:.20}, threads {threads!s:.4}" if about else ""
    return Compiled(Plan(True, f"as the file was compiled{made_for}"), data)


def price_layers(data: bytes, request: Request) -> list[LayerCost]:
    """What each layer that the kernels know costs here, its variant tuned now; empty without any.

    Raises ModelFileError for a model that cannot be read or does not run.
    """
    dense = read_dense(data)
    shapes = value_shapes(dense)
    regions = find(dense, shapes)
    if not regions:
        return []
    feeds = random_feeds(dense, request.batch)
    planner = _Planner(dense, shapes, regions, feeds, request)
    planner.tune()
    return planner.price()[0]


def _fitting(
    dense: ModelProto,
    shapes: Shapes,
    regions: list[BuiltRegion],
    sizes_of: Callable[[list[BuiltRegion]], Sizes],
    left: Collection[str] = (),
) -> tuple[list[BuiltRegion], set[str]]:
    """The regions, planned for these sizes, and the outputs of layers that the library refuses.

    `left` are those of layers that the regions leave alone already.
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


def _plain(reason: str) -> Compiled:
    return Compiled(Plan(False, reason))


def _plan(sparse: bool, reason: str, found: plans.Choice, seconds: float) -> Plan:
    if found.busy:
        reason += ", measured on a busy machine, to be planned again"
    return Plan(sparse, reason, found.low, seconds, found.busy)


def _share_of_zeros(regions: list[BuiltRegion]) -> float:
    """Zeros among the weights, without those of one input channel, which stay dense everywhere."""
    every = [x.learned for r in regions for x in r.region.layers if x.learned is not None]
    weights = [w for w in every if w.shape[1] > 1]
    n_all = sum(w.size for w in weights)
    return 1 - sum(map(np.count_nonzero, weights)) / n_all if n_all else 0.0


def _size(regions: list[BuiltRegion]) -> str:
    n_layers = sum(x.learned is not None for r in regions for x in r.region.layers)
    text = f"{n_layers} layers in {len(regions)} region{'s' * (len(regions) != 1)}"
    if len(regions) == MAX_REGIONS:
        text += ", as many as there can be; smaller ones stay with onnxruntime"
    return text


def _serialized(dense: ModelProto, regions: list[BuiltRegion], request: Request) -> bytes:
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


class _Planner:
    """One planning of one model: variants are tuned, layers priced, contenders timed."""

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
        self.regions, self.unfit = _fitting(dense, shapes, regions, self._measure_sizes)

    def _measure_sizes(self, regions: list[BuiltRegion]) -> Sizes:
        self.sizes = measured_sizes(self.dense, _values_of(regions), self.feeds)
        return self.sizes

    def run(self) -> Compiled:
        if not self.regions:
            return _plain(_UNFIT)
        self.tune()
        costs, proposed = self.price()
        chosen = {WHOLE: (self.regions, _serialized(self.dense, self.regions, self.request))}
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
                chosen[CUT] = (fewer, _serialized(self.dense, fewer, self.request))
        found = self._choose({name: model for name, (_, model) in chosen.items()})
        seconds = self.request.tuning_seconds
        if found.name is None:
            costs = [replace(c, on_kernels=False) for c in costs]
            reason = f"no faster beyond doubt, ratio {found.low:.2f} to {found.high:.2f}"
            return Compiled(_plan(False, reason, found, seconds), None, costs)
        regions, model = chosen[found.name]
        if found.name == CUT:
            costs = [replace(c, on_kernels=c.output not in proposed) for c in costs]
        reason = f"{_size(regions)}, at least {found.low:.2f} times dense, tuned for {seconds:g} s"
        return Compiled(_plan(True, reason, found, seconds), model, costs)

    def tune(self) -> None:
        """Measure variants of every layer; a region gets time for each of its steps."""
        known = [r for r in self.regions if r.shapes]
        n_steps = sum(len(r.steps) for r in known)
        for done, region in enumerate(known):
            self.request.progress("tuning the kernels for this machine", done, len(known))
            seconds = self.request.tuning_seconds * len(region.steps) / n_steps
            assert region.shapes is not None
            pairs = region.program().tune(region.shapes, isa=self.isa, seconds=seconds)
            region.set_variants({x.output: pairs[steps] for x, steps in region.layers()})

    def price(self) -> tuple[list[LayerCost], set[str]]:
        """What each layer costs, and the outputs of those that ONNX Runtime had better keep."""
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

    def _choose(self, models: Mapping[str, bytes]) -> plans.Choice:
        self.request.progress("comparing with plain onnxruntime", 0, 1)
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
                raise ModelFileError(
                    f"the kernels' outputs on noise differ by {found.error:.1e} of the largest, "
                    f"more than {found.limit:.1e}"
                )
            return partial(session.run, None, self.feeds)

        return plans.choose({plans.DENSE: dense} | {n: partial(fast, m) for n, m in models.items()})
