"""The whole verification of one file, and the files that tell of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.common.files import sha256_file, written_together
from fggp_deploy.common.option_rules import check_counts
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import ConfigError, ModelFileError, UnknownName
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.model import SparseModel
from fggp_deploy.measure.machine import default_threads, machine, watching_load
from fggp_deploy.measure.network import SESSION_CONFIG, Floats, Network
from fggp_deploy.measure.size import size
from fggp_deploy.report import sections, words
from fggp_deploy.report.html import html
from fggp_deploy.report.markdown import markdown
from fggp_deploy.report.notes import busy_notes, notes
from fggp_deploy.verify import model_under_test as names
from fggp_deploy.verify.certificate import certificate
from fggp_deploy.verify.checks import (
    COMPILED,
    KERNELS,
    TORCH,
    Trusted,
    first_mismatch,
    packed_against_dense,
    rounding,
    self_test,
)
from fggp_deploy.verify.document import File, Report
from fggp_deploy.verify.gates import (
    Gates,
    agreement,
    as_sparse_as_told,
    fed_as_trained,
    judge,
    nothing_revived,
)
from fggp_deploy.verify.history import history
from fggp_deploy.verify.model_under_test import Subject, find_reference, gather
from fggp_deploy.verify.parity import Difference
from fggp_deploy.verify.predictions import (
    answered,
    inputs_as_trained,
    robustness_of,
    torch_against_stock,
)
from fggp_deploy.verify.report_files import set_aside, stem_for
from fggp_deploy.verify.robustness import EXTENTS
from fggp_deploy.verify.speed import kernel_layers, latencies, layer_times, processes


def verify(
    model_path: Path,
    *,
    reference: Path | None = None,
    data: Dataset | None = None,
    gates: Gates | None = None,
    threads: Sequence[int] | None = None,
    batches: Sequence[int] = (1, 8),
    seconds: float = 10.0,
    seed: int = 0,
    robustness: str | None = None,
    int8: bool = True,
    check_preprocessing: bool = True,
    trusted: Trusted = lambda: None,
    torch: Callable[[], Network | None] = lambda: None,
    progress: Progress = silent,
) -> Report:
    """Verify a packed .onnx file or .csr folder on the CPU, on stock onnxruntime and the kernels.

    `reference` is the dense parent's ONNX, by default `reference.onnx` beside the model if there
    is one. `data` brings the test split. Latency is measured at every pair of `threads` (default:
    one a physical core, and one) and `batches`; the first pair is the one that gates judge, with
    `seconds` of its own, and the one that everything else holds for. `robustness` is None, "quick"
    or "full". `int8`: also the dense parent in int8, calibrated on the data's training images.
    `check_preprocessing`: fail a file that other preprocessing of the test images suits better.
    `trusted` makes the network that the file ought to hold, or None where there is none;
    it is called only when the self-test fails, to find the layer. `torch` is the same network in
    torch, to be compared on all data; see `in_torch`.

    Raises ConfigError for options out of their domain and gates that cannot be judged,
    ModelFileError for files that are damaged, do not run or do not belong together, and DataError
    for data of another size or another number of classes.
    """
    gates = gates or Gates()
    settings = _settings(threads, batches)
    n_threads, batch = settings[0]
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds must be positive and finite, got {seconds}")
    started, state = datetime.now(UTC), machine()
    packed = SparseModel.open(model_path)
    reference = find_reference(packed, reference)
    gates.require(
        data=data is not None, reference=reference is not None, robustness=robustness is not None
    )
    if robustness is not None and (data is None or reference is None):
        raise ConfigError(
            "robustness is measured on data against the dense parent; both are needed"
        )
    if robustness is not None and robustness not in EXTENTS:
        raise UnknownName("robustness", robustness, EXTENTS)
    subject = gather(
        packed, reference=reference, data=data, threads=n_threads, batch=batch, int8=int8,
        progress=progress,
    )  # fmt: skip
    progress("parity", 0, 1)
    tested = self_test(subject)
    compared = packed_against_dense(subject, threads=n_threads, seed=seed)
    progress("parity", 1, 1)
    rounded = rounding(subject)
    found = answered(subject, threads=n_threads, seed=seed, progress=progress)
    scored = found.accuracy
    found_inputs = None
    if check_preprocessing:
        found_inputs = inputs_as_trained(subject, seed=seed, progress=progress)
    disturbed = robustness_of(subject, robustness, seed, progress) if robustness else None
    certified = certificate(packed, reference)
    with watching_load() as load:
        timed, *others = latencies(subject, settings, seconds=seconds, seed=seed, progress=progress)
    against_torch, no_torch = _in_torch(subject, torch, found.logits, seed, progress)
    sized = size(packed, reference)

    checks = {"self-test": tested} if tested is not None else {}
    checks |= {"rounded values against fp32": rounded} if rounded is not None else {}
    checks |= {f"parity on {inputs}": d for inputs, d in compared.items()}
    compared_with_stock = {KERNELS: found.kernels, COMPILED: found.compiled, TORCH: against_torch}
    checks |= {name: d for name, d in compared_with_stock.items() if d is not None}
    best = names.KERNELS if names.KERNELS in timed.timings else names.MODEL
    verdicts = [agreement(name, d) for name, d in checks.items()]
    if certified.revived is not None:
        verdicts.append(nothing_revived(certified.revived))
    if certified.n_removed is not None and certified.n_removed_recorded is not None:
        verdicts.append(as_sparse_as_told(certified.n_removed, certified.n_removed_recorded))
    if found_inputs is not None:
        verdicts.append(fed_as_trained(found_inputs))
    verdicts += judge(
        gates,
        paired=[p for p in (scored.paired, scored.kernels_paired) if p] if scored else [],
        speedup=timed.speedups.get(best),
        timing=timed.timings[best],
        file_bytes=sized.file_bytes,
        robustness=disturbed,
        too_busy=words.too_busy(timed),
    )
    asked: dict[str, Any] = {"settings": [list(s) for s in settings], "seconds": seconds}
    asked |= {"seed": seed, "robustness": robustness, "int8": int8}
    asked |= {"check_preprocessing": check_preprocessing}
    weights = [layer for layer in packed.layers if layer.of_layer]
    n_weights = sum(layer.size for layer in weights)
    mismatch, missed = first_mismatch(subject, checks, trusted, threads=n_threads)
    return Report(
        model=File(model_path.name, sha256_file(model_path), sized.file_bytes),
        reference=_file(reference) if reference else None,
        verdicts=tuple(verdicts),
        notes=(
            *missed,
            *notes(subject, preprocessing_checked=check_preprocessing),
            *busy_notes((timed, *others)),
            *no_torch,
        ),
        self_test=tested,
        parity=compared,
        kernels_parity=found.kernels,
        compiled_parity=found.compiled,
        torch_parity=against_torch,
        rounding=rounded,
        rounding_paired=found.rounded,
        mismatch=mismatch,
        inputs=found_inputs,
        accuracy=scored,
        int8=found.int8,
        robustness=disturbed,
        size=sized,
        latency=timed,
        other_latencies=tuple(others),
        load=load,
        kernel_layers=kernel_layers(subject, batch=batch, progress=progress),
        layer_times=layer_times(subject, threads=n_threads, batch=batch, seed=seed),
        processes=processes(subject, threads=n_threads, batch=batch, progress=progress),
        sparsity=1 - sum(layer.nnz for layer in weights) / max(1, n_weights),
        layers=tuple(packed.layers),
        certificate=certified,
        history=history(model_path.parent),
        origin=_origin(packed.metadata),
        machine=state,
        provenance=Provenance.of(
            asked | asdict(gates) | {"session_config": SESSION_CONFIG}, started
        ),
    )


def write(report: Report, folder: Path) -> Path:
    """Write report.json, report.md and report.html into `folder` as a set; the last's path.

    Those of another file than model.onnx are called NAME.report; see `report_files`. A report
    without accuracy does not take the place of one of the same file that has it: its name is
    report-no-data then.
    """
    stem = stem_for(folder, report.model.name)
    if report.accuracy is None and _tells_more(folder / f"{stem}.json", report.model.sha256):
        stem += "-no-data"
    page = sections.page(report)
    texts = {
        ".json": json.dumps(report.to_dict(), indent=2) + "\n",
        ".md": markdown(page),
        ".html": html(page),
    }
    contents = {
        folder / f"{stem}{suffix}": text.encode(errors="replace") for suffix, text in texts.items()
    }
    with written_together(contents):
        set_aside(folder, stem, report.model.sha256)
    return folder / f"{stem}.html"


def _tells_more(path: Path, sha256: str) -> bool:
    """Whether an earlier report of the same file has its accuracy."""
    try:
        earlier = json.loads(path.read_bytes())
        return bool(earlier["model"]["sha256"] == sha256 and earlier["accuracy"] is not None)
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False  # no report, or none of ours


def _in_torch(
    subject: Subject,
    torch: Callable[[], Network | None],
    logits: Floats,
    seed: int,
    progress: Progress,
) -> tuple[Difference | None, tuple[str, ...]]:
    """Stock onnxruntime against torch after all timing, and why not; torch has fp32 values only."""
    if subject.packed.metadata.unrounded is not None:
        return None, ("The network was not run in torch, which has not the rounded values.",)
    try:
        network = torch()
    except ModelFileError as e:
        return None, (f"The network was not run in torch: {e}.",)
    if network is None:
        return None, ()
    return torch_against_stock(subject, network, logits, seed=seed, progress=progress), ()


def _settings(threads: Sequence[int] | None, batches: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of threads and batch, each once, those of the first threads first."""
    threads = (default_threads(), 1) if threads is None else threads
    check_counts(threads=threads, batch=batches)
    return list(dict.fromkeys(product(threads, batches)))


def _origin(meta: Metadata) -> dict[str, Any]:
    own = asdict(replace(meta, selftest=None, unrounded=None))
    del own["selftest"], own["unrounded"]  # many logits, and the outcome is in the report
    plain: dict[str, Any] = json.loads(json.dumps(own), parse_constant=str)  # JSON has no NaN
    return plain


def _file(path: Path) -> File:
    return File(path.name, sha256_file(path), path.stat().st_size)
