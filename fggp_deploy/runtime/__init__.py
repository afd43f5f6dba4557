"""Open a model on the sparse kernels: `session(path)` is an onnxruntime.InferenceSession.

Needs numpy, onnx and onnxruntime only. Without the compiled library, sessions are plain ones.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto

from fggp_deploy import kernels
from fggp_deploy.errors import MachineError
from fggp_deploy.onnx_ops import unpack
from fggp_deploy.runtime import plan as plans
from fggp_deploy.runtime.regions import MARK, BuiltRegion, find, rewrite

__all__ = ["session", "uses_kernels"]

PROVIDERS = ["CPUExecutionProvider"]
TUNING_SECONDS = 15.0


def session(
    model: str | Path | bytes,
    *,
    threads: int | None = None,
    measure: bool = True,
    cache: bool = True,
    config: Mapping[str, str] | None = None,
) -> ort.InferenceSession:
    """A session for a packed file, or for any ONNX file whose weights hold many zeros.

    `model` is a path or a serialised model. `threads` as in ONNX Runtime's intra_op_num_threads;
    None leaves its default. `config` holds further session configuration entries. The first call
    for a model tunes the kernels and compares with plain ONNX Runtime, which it then returns
    unless the kernels are faster beyond doubt; later calls read the cached plan. With
    `measure=False` nothing is timed and the cost model's choice is taken as it is.
    Raises ModelFileError for a file that cannot be read.
    """
    data = model if isinstance(model, bytes) else Path(model).read_bytes()
    options = _Options(threads, dict(config or {}))
    dense = _simplified(unpack(onnx.load_model_from_string(data)))
    try:
        kernels.load()
        regions = find(dense)
    except MachineError:
        regions = []
    if not regions:
        return _open(dense, options)
    count = threads or os.cpu_count() or 1
    place = plans.cache_path(data, threads=count)
    plan = plans.load(place) if cache else None
    if plan is None or not _fits(plan, regions):
        if not measure:
            return _open(rewrite(dense, regions, threads=count), options)
        plan = _make_plan(dense, regions, options, count)
        if cache:
            plans.save(place, plan)
    if not plan.sparse:
        return _open(dense, options)
    _apply(plan.variants, regions)
    return _open(rewrite(dense, regions, threads=count), options)


def uses_kernels(session: ort.InferenceSession) -> bool:
    """Whether a session that `session` opened runs regions, not the dense model."""
    return MARK in session.get_modelmeta().custom_metadata_map


@dataclass(frozen=True)
class _Options:
    """What a caller asked of every session that is opened on the way."""

    threads: int | None
    config: Mapping[str, str] = field(default_factory=dict)

    def make(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        for key, value in self.config.items():
            options.add_session_config_entry(key, value)
        return options


def _open(model: ModelProto, asked: _Options) -> ort.InferenceSession:
    options = asked.make()
    library = kernels.library_path()
    if library is not None and any(p.key == MARK for p in model.metadata_props):
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS)


def _simplified(model: ModelProto) -> ModelProto:
    """The model after ONNX Runtime's basic optimisations: constants and batch norms folded."""
    with tempfile.TemporaryDirectory() as folder:
        options = _Options(1).make()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "basic.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS)
        return onnx.load(options.optimized_model_filepath)


def _fits(plan: plans.Plan, regions: list[BuiltRegion]) -> bool:
    return [len(v) for v in plan.variants] == [len(r.steps) for r in regions]


def _apply(variants: list[list[tuple[int, int]]], regions: list[BuiltRegion]) -> None:
    for chosen, region in zip(variants, regions, strict=True):
        region.steps = [
            dataclasses.replace(s, variant=v) for s, v in zip(region.steps, chosen, strict=True)
        ]


def _make_plan(
    dense: ModelProto, regions: list[BuiltRegion], options: _Options, count: int
) -> plans.Plan:
    isa = os.environ.get("FGGP_ISA") or kernels.isas()[0]
    variants = [
        r.program().tune(r.shapes, isa=isa, seconds=TUNING_SECONDS / len(regions))
        if r.shapes
        else [s.variant for s in r.steps]
        for r in regions
    ]
    _apply(variants, regions)
    plain = _open(dense, options)
    fast = _open(rewrite(dense, regions, threads=count), options)
    feeds = _feeds(plain)
    if feeds is None:
        return plans.Plan(False, variants, 0.0)
    ratios = plans.interleaved(
        lambda: plain.run(None, feeds),
        lambda: fast.run(None, feeds),
        pairs=plans.MIN_PAIRS,
        seconds=plans.MAX_SECONDS,
    )
    bound = plans.ratio_lower_bound(ratios)
    return plans.Plan(bound > 1, variants, bound)


def _feeds(plain: ort.InferenceSession) -> dict[str, Any] | None:
    """Random inputs, one image each; None when a dimension besides the first is unknown."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in plain.get_inputs():
        shape = [1 if i == 0 and not isinstance(d, int) else d for i, d in enumerate(value.shape)]
        if value.type != "tensor(float)" or not all(isinstance(d, int) for d in shape):
            return None
        feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds
