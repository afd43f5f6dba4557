"""The cost of each layer on ONNX Runtime and on the kernels, and which ONNX Runtime should keep."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fggp_deploy.common.files import scratch_error, scratch_folder
from fggp_deploy.kernels import program as p
from fggp_deploy.runtime.regions.programs import RegionProgram
from fggp_deploy.runtime.sessions import SessionConfig, run

DENSE_RUNS, KERNEL_RUNS = 5, 11
# Changing to the kernels' layout, or back, reads and writes each value once, and so does ONNX
# Runtime to and from its own: about this long per float.
CONVERSION_US = 1.5e-3
# A cut is proposed only if the estimates promise to save at least this share of the time.
WORTH_A_CUT = 0.03


@dataclass(frozen=True)
class LayerCost:
    """One layer with the nodes fused into it, on one thread, per image.

    `name` is the weight's, or the value that the layer makes; `shape` is the weight's, [] without;
    `density` is the share of non-zeros; `macs` counts the dense multiply-accumulates of all rows.
    `dense_us` is ONNX Runtime's time in the dense form, and `kernels_us` the library's in its
    region, with its changes of layout. `variant` is the kernel's block: output channels x rows x
    columns of vectors / blocks of input channels. `on_kernels` False: the plan leaves the layer to
    ONNX Runtime.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    density: float
    macs: int
    dense_us: float | None
    kernels_us: float
    variant: str
    output: str
    elements: int  # of the output, an image
    on_kernels: bool = True


def read_profile(path: Path) -> list[dict[str, Any]]:
    """The events of ONNX Runtime's profile in a scratch folder; raises MachineError if it is cut.

    ONNX Runtime does not report that it could not write all of it.
    """
    try:
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise scratch_error(f"{path.parent.parent} may be full") from e
    return events


def dense_costs(
    model: bytes, values: Collection[str], feeds: Mapping[str, Any]
) -> dict[str, float]:
    """Microseconds of each node of a model under ONNX Runtime on one thread, by its output.

    `values` are the outputs, and also the names, of the model's nodes. Medians from ONNX Runtime's
    profiler; the time of nodes that were fused stands at one of their outputs. Raises MachineError
    if the profile cannot be written to a temporary file.
    """
    with scratch_folder("fggp-profile-") as folder:
        session = SessionConfig(1).open(model, profile=folder / "profile")
        for _ in range(DENSE_RUNS):
            run(session, feeds, "the model")
        events = read_profile(Path(session.end_profiling()))
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            value = _value_of(event["name"].removesuffix("_kernel_time"), values)
            if value:
                times[value].append(float(event["dur"]))
    # a value that several nodes are named for is made by all of them
    return {v: float(np.median(t)) * len(t) / DENSE_RUNS for v, t in times.items()}


def _value_of(event: str, values: Collection[str]) -> str | None:
    """The value that a node of the optimized graph makes, from the node's name.

    ONNX Runtime writes "fused" before the names of some nodes that it fused, and the name of the
    fusion, or a number, behind others.
    """
    name = event.removeprefix("fused ").removesuffix("/MatMulAddFusion")
    while name and name not in values:
        name = name.rpartition("_")[0]
    return name or None


def layer_costs(
    region: RegionProgram,
    sizes: Mapping[str, list[int]],
    dense_us: Mapping[str, float],
    *,
    images: int,
    isa: str,
) -> list[LayerCost]:
    """Costs of a region's layers in order; `dense_us` and `sizes` are for `images` at once."""
    assert region.shapes is not None
    program = region.program()
    own = program.profile(region.shapes, isa=isa, repeats=KERNEL_RUNS)
    if region.images != images:  # rows of a matrix: many for each image
        own *= _rows_over_one(program, region, max(float(own.sum()), 1e-3), isa) / images
    found = []
    for layer, steps in region.layers():
        dense = [dense_us[n.output[0]] for n in layer.nodes if n.output[0] in dense_us]
        made = sizes[layer.output]
        weight = layer.learned
        found.append(
            LayerCost(
                name=layer.nodes[0].input[1] if weight is not None else layer.output,
                op=layer.nodes[0].op_type,
                shape=() if weight is None else weight.shape,
                density=1.0 if weight is None else np.count_nonzero(weight) / weight.size,
                macs=layer.macs(sizes[layer.nodes[0].output[0]]) // images,
                dense_us=sum(dense) / images if dense else None,
                kernels_us=float(own[steps].sum()),
                variant=_variant(region.steps[steps][0], isa),
                output=layer.output,
                elements=math.prod(made) // images,
            )
        )
    return found


def _rows_over_one(program: p.Program, region: RegionProgram, one_us: float, isa: str) -> float:
    """How much longer the library takes for all rows than for one, which takes `one_us`."""
    assert region.shapes is not None
    rng = np.random.default_rng(0)
    medians = []
    for n in (1, region.images):
        inputs = [rng.standard_normal((n, *s), dtype=np.float32) for s in region.shapes]
        program.run(inputs, isa=isa)  # it prepares its buffers
        times = []
        for _ in range(KERNEL_RUNS):
            began = time.perf_counter()
            program.run(inputs, isa=isa)
            times.append(time.perf_counter() - began)
        medians.append(1e6 * float(np.median(times)))
    call_us = max(0.0, medians[0] - one_us)
    return max(1.0, (medians[1] - call_us) / one_us)


def _variant(step: p.Step, isa: str) -> str:
    index, blocks = step.variant
    if step.op != p.CONV:
        return "–"
    if index < 0:
        return "cost model's"
    return "×".join(map(str, p.variant_shape(index, isa=isa))) + (
        f"/{blocks}" if blocks > 1 else ""
    )


def leave_to_ort(costs: Sequence[LayerCost], entering: int) -> set[str]:
    """Outputs of the layers that ONNX Runtime should keep, by the estimates; often none.

    The cheapest path through the layers: each change between ONNX Runtime and the kernels costs a
    change of layout of the values that pass; `entering` counts the floats that enter the region. It
    is exact if each layer reads only the one before it, and an estimate if values skip layers, so
    the result is only a proposal.
    """
    ours: tuple[float, frozenset[str]] = (entering * CONVERSION_US, frozenset())
    theirs: tuple[float, frozenset[str]] = (0.0, frozenset())
    for c in costs:
        change = c.elements * CONVERSION_US
        stay = (ours[0] + c.kernels_us, ours[1])
        leave = (theirs[0] + (c.dense_us or 0.0), theirs[1] | {c.output})
        ours = min(stay, (leave[0] + change, leave[1]), key=lambda way: way[0])
        theirs = min(leave, (stay[0] + change, stay[1]), key=lambda way: way[0])
    # in the end the value is wanted as ONNX Runtime has it; the changes are in `kernels_us` already
    all_ours = sum(c.kernels_us for c in costs)
    return set(theirs[1]) if theirs[0] < (1 - WORTH_A_CUT) * all_ours else set()
