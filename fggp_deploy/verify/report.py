"""The whole verification of one file, and the report that it leaves."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fggp_deploy import runtime
from fggp_deploy.artifacts.metadata import Metadata
from fggp_deploy.artifacts.provenance import Provenance
from fggp_deploy.artifacts.sparse_model import Layer, SparseModel
from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.files import sha256_file, write_atomic
from fggp_deploy.verify.accuracy import Accuracy, Paired
from fggp_deploy.verify.gates import Gates, Verdict, agreement, judge
from fggp_deploy.verify.latency import Latency, Run, latency, measure
from fggp_deploy.verify.machine import Machine, default_threads, machine
from fggp_deploy.verify.markdown import markdown
from fggp_deploy.verify.network import SESSION_CONFIG, load, open_by_runtime
from fggp_deploy.verify.parity import Difference
from fggp_deploy.verify.process import Cost, measure_processes
from fggp_deploy.verify.size import Size, size
from fggp_deploy.verify.subject import (
    Progress,
    Subject,
    find_reference,
    gather,
    packed_against_dense,
    parent_sparsity,
    rounding,
    score,
    self_test,
)

SCHEMA_VERSION = 1
MODEL, REFERENCE, KERNELS = "model", "reference", "kernels"  # the contenders' names in the report


@dataclass(frozen=True)
class File:
    """A file or folder as it was verified: its name without folders, its hash and bytes."""

    name: str
    sha256: str
    file_bytes: int


@dataclass(frozen=True)
class Report:
    """Everything that was measured on one file; None is what could not be, and `notes` say why.

    `latency` and `processes` are keyed "model" (on stock onnxruntime), "reference" and, where the
    model runs on them, "kernels": then the gates on latency judge those. `parity` is packed against
    dense by inputs, `kernels_parity` kernels against stock on the test images; `rounding` fp16
    values against fp32 on the self-test's inputs, `rounding_paired` on the test split where a file
    with fp32 values lies beside the model.
    `origin` is what the model says of itself, `provenance` what made this report.
    """

    model: File
    reference: File | None
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    self_test: Difference | None
    parity: dict[str, Difference]
    kernels_parity: Difference | None
    rounding: Difference | None
    rounding_paired: Paired | None
    accuracy: Accuracy | None
    size: Size
    latency: Latency
    processes: dict[str, Cost]
    sparsity: float
    layers: tuple[Layer, ...]
    origin: dict[str, Any]
    machine: Machine
    provenance: Provenance

    @property
    def passed(self) -> bool:
        """True where every verdict is."""
        return all(v.passed for v in self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, `schema_version` and `passed` included."""
        head = {"schema_version": SCHEMA_VERSION, "passed": self.passed}
        plain: dict[str, Any] = json.loads(json.dumps(head | asdict(self), allow_nan=False))
        return plain


def verify(
    model_path: Path,
    *,
    reference: Path | None = None,
    data: Dataset | None = None,
    gates: Gates | None = None,
    threads: int | None = None,
    batch: int = 1,
    seconds: float = 10.0,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Verify a packed .onnx file or .csr folder on the CPU, on stock onnxruntime and the kernels.

    `reference` is the dense parent's ONNX, by default `reference.onnx` beside the model if there
    is one. `data` brings the test split. `threads` (default: one a physical core) and `batch` hold
    for latency and memory; `seconds` is the time for latency.

    Raises ConfigError for options out of their domain and gates that cannot be judged,
    ModelFileError for files that are damaged, do not run or do not belong together, and DataError
    for data of another size or another number of classes.
    """
    gates = gates or Gates()
    threads = default_threads() if threads is None else threads
    if threads < 1 or batch < 1:
        raise ConfigError(f"threads and batch must be at least 1, got {threads} and {batch}")
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds must be positive and finite, got {seconds}")
    started, state = datetime.now(UTC), machine()
    packed = SparseModel.open(model_path)
    reference = find_reference(packed, reference)
    gates.require(data=data is not None, reference=reference is not None)
    subject = gather(
        packed, reference=reference, data=data, threads=threads, batch=batch, progress=progress
    )

    progress("parity", 0, 1)
    tested = self_test(subject)
    compared = packed_against_dense(subject, threads=threads, seed=seed)
    progress("parity", 1, 1)
    rounded = rounding(subject)
    scored, on_kernels, rounded_paired = score(subject, progress)
    timed = _time(subject, threads, batch, seconds, seed, progress)
    sized = size(packed, reference)

    checks = {"self-test": tested} if tested is not None else {}
    checks |= {"fp16 values against fp32": rounded} if rounded is not None else {}
    checks |= {f"parity on {inputs}": found for inputs, found in compared.items()}
    if on_kernels is not None:
        checks["kernels against stock"] = on_kernels
    best = KERNELS if subject.kernels is not None else MODEL
    verdicts = [agreement(name, found) for name, found in checks.items()]
    verdicts += judge(
        gates,
        paired=scored.paired if scored else None,
        speedup=timed.speedups.get(best),
        timing=timed.timings[best],
        file_bytes=sized.file_bytes,
    )
    setting = {"threads": threads, "batch": batch, "seconds": seconds, "seed": seed}
    n_weights = sum(layer.size for layer in packed.layers)
    return Report(
        model=File(model_path.name, sha256_file(model_path), sized.file_bytes),
        reference=_file(reference) if reference else None,
        verdicts=tuple(verdicts),
        notes=_notes(subject),
        self_test=tested,
        parity=compared,
        kernels_parity=on_kernels,
        rounding=rounded,
        rounding_paired=rounded_paired,
        accuracy=scored,
        size=sized,
        latency=timed,
        processes=_processes(subject, threads, batch, progress),
        sparsity=1 - sum(layer.nnz for layer in packed.layers) / max(1, n_weights),
        layers=tuple(packed.layers),
        origin=_origin(packed.metadata),
        machine=state,
        provenance=Provenance.of(
            setting | asdict(gates) | {"session_config": SESSION_CONFIG}, started
        ),
    )


def write(report: Report, folder: Path) -> None:
    """Write report.json and report.md into `folder`, each atomically."""
    write_atomic(folder / "report.json", json.dumps(report.to_dict(), indent=2) + "\n")
    write_atomic(folder / "report.md", markdown(report).encode(errors="replace"))


def _time(
    subject: Subject, threads: int, batch: int, seconds: float, seed: int, progress: Progress
) -> Latency:
    rng = np.random.default_rng(seed)
    shape = (batch, *subject.packed.metadata.preprocessing.input_shape)
    x = rng.standard_normal(shape, dtype=np.float32)
    files: dict[str, bytes | Path] = {MODEL: subject.packed.runnable()}
    if subject.reference is not None:
        files[REFERENCE] = subject.reference
    for network in (subject.model, subject.parent):
        if network is not None:
            network.logits(x)  # what cannot take this batch fails here, with one clear line

    def opener(name: str) -> Callable[[], Run]:
        return lambda: load(name, files[name], threads=threads).runner(x)

    def open_on_kernels() -> Run:
        content = subject.packed.runnable()
        network, speed = open_by_runtime(KERNELS, content, threads=threads, batch=batch)
        if not runtime.uses_kernels(network.session):
            raise ModelFileError(
                f"{subject.packed.path.name} ran on the kernels and now is {speed}"
            )
        return network.runner(x)

    contenders = {name: opener(name) for name in files}
    if subject.kernels is not None:
        contenders[KERNELS] = open_on_kernels
    samples = measure(
        contenders,
        seconds=seconds,
        rng=rng,
        progress=partial(progress, "latency"),
    )
    reference = REFERENCE if subject.reference is not None else None
    return latency(samples, reference=reference, threads=threads, batch=batch, rng=rng)


def _processes(subject: Subject, threads: int, batch: int, progress: Progress) -> dict[str, Cost]:
    packed = subject.packed
    with tempfile.TemporaryDirectory(prefix="fggp-verify-") as folder:
        copy = Path(folder) / "model.onnx"  # a CSR folder is not a file that onnxruntime loads
        write_atomic(copy, packed.runnable())
        paths = {MODEL: copy}
        if subject.kernels is not None:
            paths[KERNELS] = copy
        if subject.reference is not None:
            paths[REFERENCE] = subject.reference
        return measure_processes(
            paths,
            input_shape=(batch, *packed.metadata.preprocessing.input_shape),
            threads=threads,
            on_kernels=[KERNELS],
            progress=partial(progress, "load time and memory"),
        )


def _origin(meta: Metadata) -> dict[str, Any]:
    own = asdict(replace(meta, selftest=None, unrounded=None))
    del own["selftest"], own["unrounded"]  # many logits, and the outcome is in the report
    plain: dict[str, Any] = json.loads(json.dumps(own), parse_constant=str)  # JSON has no NaN
    return plain


def _file(path: Path) -> File:
    return File(path.name, sha256_file(path), path.stat().st_size)


def _notes(subject: Subject) -> tuple[str, ...]:
    notes = []
    if subject.reference is None:
        notes.append(
            "No dense parent: reference.onnx is not beside the model and no --reference was given, "
            "so there is no accuracy drop and no speed-up."
        )
    elif (share := parent_sparsity(subject.reference)) > 0.01:
        notes.append(f"The parent is itself {share:.1%} sparse; the drop is counted from it.")
    if subject.data is None:
        notes.append("No data was given, so accuracy was not measured.")
    if subject.kernels is None:
        notes.append(f"The sparse kernels were not used: {subject.speed.removeprefix('plain: ')}.")
    else:
        notes.append(f"The sparse kernels run {subject.speed.removeprefix('kernels: ')}.")
    if subject.packed.metadata.unrounded is not None and subject.unrounded is None:
        notes.append(
            "The values are fp16 and no file with the same checkpoint's fp32 values lies beside "
            "the model, so the two were compared on the self-test's inputs only."
        )
    if subject.packed.metadata.selftest is None:
        notes.append("The file brings no self-test, so no recorded logits were checked.")
    return tuple(notes)
