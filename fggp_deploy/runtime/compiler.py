"""From a model to one whose regions are single nodes, if that is faster on this machine."""

from __future__ import annotations

import numpy as np
import onnx

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.regions import compiled_for, is_compiled
from fggp_deploy.format.unpacking import reading, split
from fggp_deploy.graph.nodes import subgraphs
from fggp_deploy.graph.shapes import fix_open_sides_
from fggp_deploy.runtime.costs import LayerCost
from fggp_deploy.runtime.dense import read_dense
from fggp_deploy.runtime.feeds import random_feeds
from fggp_deploy.runtime.lowering.shaped_graph import is_known, sizes
from fggp_deploy.runtime.plan import Compiled, Plan
from fggp_deploy.runtime.planner import (
    NO_LAYER_FITS,
    Planner,
    Request,
    describe,
    fitting,
    serialized,
)
from fggp_deploy.runtime.reasons import why_no_layer
from fggp_deploy.runtime.regions import BuiltRegion, find, outgrown_layers
from fggp_deploy.runtime.sessions import Options, run, try_out
from fggp_deploy.runtime.shapes import value_shapes

# Below this share of zeros a layer's kernel has no chance against ONNX Runtime's dense one.
MIN_ZEROS = 0.4


def compile_model(data: bytes, request: Request) -> Compiled:
    """Compile a model for this machine; raises ModelFileError if it cannot be read."""
    compiled = _read_compiled(data)
    if compiled is not None:
        return compiled
    dense = read_dense(data)
    if request.shape:
        fix_open_sides_(dense, dict(enumerate(request.shape, start=1)))
    shapes = value_shapes(dense)
    regions = find(dense, shapes)
    if not regions:
        return Compiled.standard(why_no_layer(dense, shapes))
    zeros = _share_of_zeros(regions)
    if zeros < MIN_ZEROS:
        return Compiled.standard(
            f"only {zeros:.0%} of its weights are zeros; the kernels can pay from {MIN_ZEROS:.0%}"
        )
    if not request.measure:
        known = {name: sizes(dims) for name, dims in shapes.items() if is_known(dims[1:])}
        left = outgrown_layers(regions, known)
        if left:
            regions = find(dense, shapes, without=left)
        regions, _ = fitting(dense, shapes, regions, lambda _: known, left)
        if not regions:
            return Compiled.standard(NO_LAYER_FITS)
        text = f"{describe(regions)}, by the cost model, not measured"
        return Compiled(Plan(True, text), serialized(dense, regions, request))
    try:
        feeds = random_feeds(dense, request.batch)
        if any(True for node in dense.graph.node for _ in subgraphs(node)):  # a Loop may never end
            content: bytes = dense.SerializeToString()
            try_out(lambda: run(Options(1).open(content), feeds, "the model"), "the model")
        return Planner(dense, shapes, regions, feeds, request).run()
    except ModelFileError as e:  # ONNX Runtime may run it all the same
        return Compiled.standard(str(e))


def _read_compiled(data: bytes) -> Compiled | None:
    """A model that was compiled before, as it is; None for any other."""
    with reading("the model"):
        model = onnx.load_model_from_string(data)
    if not is_compiled(model):
        return None
    split(model)  # raises if the file breaks the format
    about = compiled_for(model) or {}
    isa, threads = about.get("isa"), about.get("threads")
    made_for = f" for {isa!s:.20}, threads {threads!s:.4}" if about else ""
    return Compiled(Plan(True, f"as the file was compiled{made_for}"), data)


def price_layers(data: bytes, request: Request) -> list[LayerCost]:
    """What each layer that the kernels can compute costs here, with its variant tuned now.

    Raises ModelFileError for a model that cannot be read or does not run.
    """
    dense = read_dense(data)
    shapes = value_shapes(dense)
    regions = find(dense, shapes)
    if not regions:
        return []
    feeds = random_feeds(dense, request.batch)
    planner = Planner(dense, shapes, regions, feeds, request)
    planner.tune()
    return planner.price()[0]


def _share_of_zeros(regions: list[BuiltRegion]) -> float:
    """Zeros among the weights, without those of one input channel, which stay dense everywhere."""
    every = [x.learned for r in regions for x in r.region.layers if x.learned is not None]
    weights = [w for w in every if w.shape[1] > 1]
    n_all = sum(w.size for w in weights)
    return 1 - sum(map(np.count_nonzero, weights)) / n_all if n_all else 0.0
