"""From a model to one whose regions are single nodes, if that is faster on this machine."""

from __future__ import annotations

import onnx

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.compiled import compiled_for, is_compiled
from fggp_deploy.format.unpacking import split
from fggp_deploy.graph.nodes import subgraphs
from fggp_deploy.graph.reading import reading
from fggp_deploy.graph.shapes import fix_open_sides_
from fggp_deploy.runtime.costs import LayerCost
from fggp_deploy.runtime.dense import read_dense
from fggp_deploy.runtime.feeds import random_feeds
from fggp_deploy.runtime.measured_planning import MeasuredPlanner
from fggp_deploy.runtime.named_shapes import value_shapes
from fggp_deploy.runtime.plan import CompiledModel, CompileRequest, Plan
from fggp_deploy.runtime.reasons import why_no_layer
from fggp_deploy.runtime.regions.programs import MIN_ZEROS, build_programs, share_of_zeros
from fggp_deploy.runtime.sessions import SessionConfig, run, try_out
from fggp_deploy.runtime.unmeasured_planning import plan_unmeasured


def compile_model(data: bytes, request: CompileRequest) -> CompiledModel:
    """Compile a model for this machine; raises ModelFileError if it cannot be read."""
    compiled = _read_compiled(data, measure=request.measure)
    if compiled is not None:
        return compiled
    dense = read_dense(data)
    if request.shape:
        fix_open_sides_(dense, dict(enumerate(request.shape, start=1)))
    shapes = value_shapes(dense)
    regions = build_programs(dense, shapes)
    if not regions:
        return CompiledModel.standard(why_no_layer(dense, shapes))
    zeros = share_of_zeros(regions)
    if zeros < MIN_ZEROS:
        return CompiledModel.standard(
            f"only {zeros:.0%} of its weights are zeros; the kernels can pay from {MIN_ZEROS:.0%}"
        )
    if not request.measure:
        return plan_unmeasured(dense, shapes, regions, request)
    try:
        feeds = random_feeds(dense, request.batch)
        if any(True for node in dense.graph.node for _ in subgraphs(node)):  # a Loop may never end
            content: bytes = dense.SerializeToString()
            try_out(lambda: run(SessionConfig(1).open(content), feeds, "the model"), "the model")
        return MeasuredPlanner(dense, shapes, regions, feeds, request).run()
    except ModelFileError as e:  # ONNX Runtime may run it all the same
        return CompiledModel.standard(str(e))


def _read_compiled(data: bytes, *, measure: bool) -> CompiledModel | None:
    """A model that has regions, as it is; None for any other.

    If regions were chosen without a measurement and one is wanted here, they are planned anew.
    """
    with reading("the model"):
        model = onnx.load_model_from_string(data)
    about = compiled_for(model)
    if not is_compiled(model) or (about is None and measure):
        return None
    split(model)  # raises if the file breaks the format
    isa, threads = (about or {}).get("isa"), (about or {}).get("threads")
    made_for = f" for {isa!s:.20}, threads {threads!s:.4}" if about else ""
    return CompiledModel(Plan(True, f"as the file was compiled{made_for}"), data)


def price_layers(data: bytes, request: CompileRequest) -> list[LayerCost]:
    """What each layer that the kernels can compute costs here, with its variant tuned now.

    Raises ModelFileError for a model that cannot be read or does not run.
    """
    dense = read_dense(data)
    shapes = value_shapes(dense)
    regions = build_programs(dense, shapes)
    if not regions:
        return []
    feeds = random_feeds(dense, request.batch)
    planner = MeasuredPlanner(dense, shapes, regions, feeds, request)
    planner.tune()
    return planner.price()[0]
