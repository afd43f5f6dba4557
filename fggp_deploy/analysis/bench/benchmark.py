"""Time a model against its contenders by threads and batch, and each of its layers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from fggp_deploy import kernels, runtime
from fggp_deploy.analysis.bench.contenders import DENSE, KERNELS, PACKED, Contender, contenders
from fggp_deploy.analysis.bench.model import BenchmarkedModel, read
from fggp_deploy.analysis.bench.options import BenchOptions
from fggp_deploy.analysis.bench.report import (
    BenchReport,
    ContenderAccuracy,
    ContenderResult,
    ContenderTiming,
    KernelLayers,
    PlanAtSetting,
)
from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.common.files import sha256_file
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.graph.comparison import parity_of, relative_error
from fggp_deploy.graph.reading import read_bytes
from fggp_deploy.measure.evaluate import proportion
from fggp_deploy.measure.latency import Opener, Sampling, at_setting, busy_notes
from fggp_deploy.measure.machine import machine
from fggp_deploy.measure.network import SESSION_CONFIG
from fggp_deploy.runtime.compiler import compile_model
from fggp_deploy.runtime.plan import CompileRequest
from fggp_deploy.runtime.sessions import Array, SessionConfig, run


def bench(
    path: Path, options: BenchOptions | None = None, *, progress: Progress = silent
) -> BenchReport:
    """Time a model's contenders against dense fp32 ONNX Runtime, interleaved, in fresh sessions.

    Raises ConfigError if the model takes none of the batches or leaves a size open, ModelFileError
    for a file that cannot be read or run, and DataError for a data set that was asked for and is
    not available.
    """
    options = options or BenchOptions()
    started, state = datetime.now(UTC), machine()
    model = read(path, options, progress)
    model.feeds(1)  # a model without possible inputs fails before anything is made
    batches, skipped = _batches(model, options)
    made, no_int8 = _contenders(model, options, progress)
    cells: list[ContenderTiming] = []
    plans: list[PlanAtSetting] = []
    busy: list[str] = []
    for threads, batch in product(options.threads, batches):
        found, plan, notes = _setting(model, made, threads, batch, options, progress)
        cells += found
        busy += notes
        plans.append(PlanAtSetting(threads, batch, plan))
    first = options.threads[0], batches[0]
    scored = _top1(model, made, *first)
    return BenchReport(
        model=path.name,
        sha256=sha256_file(path),
        packed=model.packed,
        rivals=tuple(
            ContenderResult(c.name, c.what, c.file_bytes, scored.get(c.name)) for c in made
        ),
        plans=tuple(plans),
        cells=tuple(cells),
        layers=_layers(model, *first, progress) if options.layers else None,
        notes=tuple(dict.fromkeys([*_notes(model), *no_int8, *skipped, *busy])),
        isa=os.environ.get("FGGP_ISA") or kernels.status().isa,
        machine=state,
        load_average_after=machine().load_average,
        provenance=Provenance.of(options.to_dict() | {"session_config": SESSION_CONFIG}, started),
    )


def _batches(model: BenchmarkedModel, options: BenchOptions) -> tuple[list[int], list[str]]:
    """The batches that the model takes, and a note on those that it does not."""
    fixed = model.fixed_batch
    possible = [b for b in options.batches if fixed in (None, b)]
    if not possible:
        raise ConfigError(f"{model.path.name} takes exactly {fixed} images; give --batch {fixed}")
    skipped = ", ".join(str(b) for b in options.batches if b not in possible)
    return possible, [f"Batch {skipped} left out: the model takes {fixed}."] if skipped else []


def _notes(model: BenchmarkedModel) -> list[str]:
    notes = []
    if not model.packed:
        notes.append("The file holds no packed weights: there is nothing packed to compare.")
    if model.images is None:
        notes.append(f"Inputs are random, because {model.why}.")
    return notes


def _contenders(
    model: BenchmarkedModel, options: BenchOptions, progress: Progress
) -> tuple[list[Contender], list[str]]:
    """The contenders; without int8 and with a note if ONNX Runtime cannot quantize the network."""
    try:
        return contenders(model, int8=options.int8, progress=progress), []
    except ModelFileError as e:
        if not options.int8:
            raise
        return contenders(model, int8=False, progress=progress), [f"No int8: {e}."]


def _setting(
    model: BenchmarkedModel,
    made: Sequence[Contender],
    threads: int,
    batch: int,
    options: BenchOptions,
    progress: Progress,
) -> tuple[list[ContenderTiming], str, list[str]]:
    """The cells of one setting, the kernels' plan, and a note if the machine was too busy."""
    feeds = model.feeds(batch)
    outputs: dict[str, list[Array]] = {}
    plan = ""
    for c in made:
        session = c.open(threads, batch)
        outputs[c.name] = run(session, feeds, f"{model.path.name} ({c.name})")
        if c.name == KERNELS:
            plan = runtime.explain(session)
        del session
    differs = {name: relative_error(y, outputs[DENSE]) for name, y in outputs.items()}
    _check_agreement(model, outputs, feeds)

    def opener(c: Contender) -> Opener:
        return lambda threads, batch: partial(c.open(threads, batch).run, None, feeds)

    found = at_setting(
        {c.name: opener(c) for c in made if c.name != KERNELS or plan.startswith("kernels")},
        threads,
        batch,
        reference=DENSE,
        sampling=Sampling(options.seconds, options.sessions, options.seed),
        progress=progress,
    )
    cells = [
        ContenderTiming(name, threads, batch, timed, found.speedups.get(name), differs[name])
        for name, timed in found.timings.items()
    ]
    return cells, plan, busy_notes([found])


def _check_agreement(
    model: BenchmarkedModel, outputs: Mapping[str, list[Array]], feeds: Mapping[str, Any]
) -> None:
    """Raise ModelFileError if the packed file or the kernels do not agree with dense."""

    def unoptimized() -> list[Array]:
        session = SessionConfig(1).open(model.dense.SerializeToString(), optimize=False)
        return run(session, feeds, model.path.name)

    for name in (PACKED, KERNELS):
        if name not in outputs:
            continue
        found = parity_of(outputs[name], outputs[DENSE], rtol=model.rtol, unoptimized=unoptimized)
        if not found.passed:
            raise ModelFileError(
                f"{name} and dense outputs differ by {found.error:.1e} of the largest, more than "
                f"{found.limit:.0e}; the network overflows, or please report this"
            )


def _top1(
    model: BenchmarkedModel, made: Sequence[Contender], threads: int, batch: int
) -> dict[str, ContenderAccuracy]:
    """Accuracy of every contender on the test images, and its agreement with dense.

    The sessions are planned for `batch`; if they take more images at once, they get them.
    """
    images = model.images
    if images is None:
        return {}
    step = model.fixed_batch or 50
    n = len(images.test) - len(images.test) % (model.fixed_batch or 1)
    if not n:
        return {}
    predictions = {}
    for c in made:
        session = c.open(threads, batch)
        name = session.get_inputs()[0].name
        parts = [session.run(None, {name: images.test[i : i + step]})[0] for i in range(0, n, step)]
        predictions[c.name] = np.concatenate(parts).argmax(axis=1)
    return {
        name: ContenderAccuracy(
            top1=proportion(int((y == images.labels[:n]).sum()), n),
            agreement=proportion(int((y == predictions[DENSE]).sum()), n),
        )
        for name, y in predictions.items()
    }


def _layers(model: BenchmarkedModel, threads: int, batch: int, progress: Progress) -> KernelLayers:
    options = SessionConfig(threads, SESSION_CONFIG)
    request = CompileRequest(options, batch, progress=progress, shape=model.shape)
    compiled = compile_model(read_bytes(model.path), request)
    return KernelLayers(str(compiled.plan), tuple(compiled.layers))
