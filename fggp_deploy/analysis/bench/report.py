"""A model against its rivals, by threads and batch, and what each of its layers costs."""

from __future__ import annotations

import math
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
from fggp_deploy.analysis.bench.document import Cell, Layers, Planned, Report, Rival, Scored
from fggp_deploy.analysis.bench.subject import Subject, read
from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.common.files import sha256_file
from fggp_deploy.common.option_rules import check_counts
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.graph.comparison import agreement, relative_error
from fggp_deploy.graph.reading import read_bytes
from fggp_deploy.measure.evaluate import proportion
from fggp_deploy.measure.evaluation_data import N_CALIBRATION
from fggp_deploy.measure.latency import MIN_SESSIONS, N_SESSIONS, Opener, at_setting, busy_notes
from fggp_deploy.measure.machine import machine
from fggp_deploy.measure.network import SESSION_CONFIG
from fggp_deploy.runtime.compiler import Request, compile_model
from fggp_deploy.runtime.sessions import Array, Options, run

N_TEST = 1000  # images to compare answers on


def bench(
    path: Path,
    *,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    int8: bool = True,
    layers: bool = False,
    shape: tuple[int, ...] | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    seconds: float = 6.0,
    sessions: int = N_SESSIONS,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Time a model's contenders against dense fp32 ONNX Runtime, interleaved, in fresh sessions.

    `seconds` are for each setting, a pair of `threads` and `batches`. `shape` gives dimensions of
    the input that the model leaves open, `data` the data set of images that calibrate int8 and are
    scored, by default the one that the file names, `data_dir` where it lies. Raises ConfigError for
    options out of their domain, ModelFileError for a file that cannot be read or run, and DataError
    for a data set that was asked for and is not there.
    """
    check_counts(threads=threads, batch=batches)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds must be positive and finite, got {seconds}")
    if sessions < MIN_SESSIONS or seed < 0:
        raise ConfigError(
            f"sessions must be at least {MIN_SESSIONS} and seed not negative, "
            f"got {sessions} and {seed}"
        )
    started, state = datetime.now(UTC), machine()
    subject = read(
        path, data=data, data_dir=data_dir, shape=shape, n_calibration=N_CALIBRATION,
        n_test=N_TEST, progress=progress,
    )  # fmt: skip
    notes = _notes(subject)
    subject.feeds(1)  # what cannot be fed fails before anything is made
    plans: list[Planned] = []
    rivals, lost = _contenders(subject, int8, progress)
    notes += lost
    fixed = subject.fixed_batch
    possible = [b for b in batches if fixed in (None, b)]
    if not possible:
        raise ConfigError(f"{path.name} takes {fixed} images only; give --batch {fixed}")
    if skipped := [b for b in batches if b not in possible]:
        notes.append(f"Batch {', '.join(map(str, skipped))} left out: the model takes {fixed}.")
    cells: list[Cell] = []
    for n, batch in product(threads, possible):
        found, plan, busy = _setting(
            subject, rivals, n, batch,
            seconds=seconds, sessions=sessions, seed=seed, progress=progress,
        )  # fmt: skip
        cells += found
        notes += busy
        plans.append(Planned(n, batch, plan))
    scored = _top1(subject, rivals, threads[0], possible[0])
    costs = _layers(subject, threads[0], possible[0], progress) if layers else None
    setting = {"threads": list(threads), "batch": list(batches), "seconds": seconds, "seed": seed}
    return Report(
        model=path.name,
        sha256=sha256_file(path),
        packed=subject.packed,
        rivals=tuple(Rival(c.name, c.what, c.file_bytes, scored.get(c.name)) for c in rivals),
        plans=tuple(plans),
        cells=tuple(cells),
        layers=costs,
        notes=tuple(dict.fromkeys(notes)),
        isa=os.environ.get("FGGP_ISA") or kernels.status().isa,
        machine=state,
        load_average_after=machine().load_average,
        provenance=Provenance.of(
            setting | {"sessions": sessions, "session_config": SESSION_CONFIG}, started
        ),
    )


def _notes(subject: Subject) -> list[str]:
    notes = []
    if not subject.packed:
        notes.append("The file holds no packed weights: there is nothing packed to compare.")
    if subject.images is None:
        notes.append(f"Inputs are random, because {subject.why}.")
    return notes


def _contenders(
    subject: Subject, int8: bool, progress: Progress
) -> tuple[list[Contender], list[str]]:
    """The contenders; without int8, and a note, where onnxruntime cannot quantise the network."""
    try:
        return contenders(subject, int8=int8, progress=progress), []
    except ModelFileError as e:
        if not int8:
            raise
        return contenders(subject, int8=False, progress=progress), [f"No int8: {e}."]


def _setting(
    subject: Subject,
    rivals: Sequence[Contender],
    threads: int,
    batch: int,
    *,
    seconds: float,
    sessions: int,
    seed: int,
    progress: Progress,
) -> tuple[list[Cell], str, list[str]]:
    """Cells of one setting, what the kernels' plan is, and a note if the machine was too busy."""
    feeds = subject.feeds(batch)
    outputs: dict[str, list[Array]] = {}
    plan = ""
    for c in rivals:
        session = c.open(threads, batch)
        outputs[c.name] = run(session, feeds, f"{subject.path.name} ({c.name})")
        if c.name == KERNELS:
            plan = runtime.explain(session)
        del session
    differs = {name: relative_error(y, outputs[DENSE]) for name, y in outputs.items()}
    _check_agreement(subject, outputs, feeds)

    def opener(c: Contender) -> Opener:
        return lambda threads, batch: partial(c.open(threads, batch).run, None, feeds)

    found = at_setting(
        {c.name: opener(c) for c in rivals if c.name != KERNELS or plan.startswith("kernels")},
        threads,
        batch,
        reference=DENSE,
        seconds=seconds,
        sessions=sessions,
        seed=seed,
        progress=progress,
    )
    cells = [
        Cell(name, threads, batch, timed, found.speedups.get(name), differs[name])
        for name, timed in found.timings.items()
    ]
    return cells, plan, busy_notes([found])


def _check_agreement(
    subject: Subject, outputs: Mapping[str, list[Array]], feeds: Mapping[str, Any]
) -> None:
    """Raise ModelFileError if the packed file or the kernels do not agree with dense."""

    def unoptimized() -> list[Array]:
        session = Options(1).open(subject.dense.SerializeToString(), optimize=False)
        return run(session, feeds, subject.path.name)

    for name in (PACKED, KERNELS):
        if name not in outputs:
            continue
        found = agreement(outputs[name], outputs[DENSE], rtol=subject.rtol, unoptimized=unoptimized)
        if not found.passed:
            raise ModelFileError(
                f"{name} and dense outputs differ by {found.error:.1e} of the largest, more than "
                f"{found.limit:.0e}; the network overflows, or please report this"
            )


def _top1(
    subject: Subject, rivals: Sequence[Contender], threads: int, batch: int
) -> dict[str, Scored]:
    """Accuracy of every contender on the test images, and its agreement with dense.

    Sessions are those planned for `batch`, and run on more images at once where they can.
    """
    images = subject.images
    if images is None:
        return {}
    step = subject.fixed_batch or 50
    n = len(images.test) - len(images.test) % (subject.fixed_batch or 1)
    if not n:
        return {}
    answers = {}
    for c in rivals:
        session = c.open(threads, batch)
        name = session.get_inputs()[0].name
        parts = [session.run(None, {name: images.test[i : i + step]})[0] for i in range(0, n, step)]
        answers[c.name] = np.concatenate(parts).argmax(axis=1)
    return {
        name: Scored(
            top1=proportion(int((y == images.labels[:n]).sum()), n),
            agreement=proportion(int((y == answers[DENSE]).sum()), n),
        )
        for name, y in answers.items()
    }


def _layers(subject: Subject, threads: int, batch: int, progress: Progress) -> Layers:
    options = Options(threads, SESSION_CONFIG)
    request = Request(options, batch, progress=progress, shape=subject.shape)
    compiled = compile_model(read_bytes(subject.path), request)
    return Layers(str(compiled.plan), tuple(compiled.layers))
