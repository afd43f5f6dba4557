"""Compare verified files: accuracy, latency and bytes, and which files no other one beats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fggp_deploy.checkpoints.run_folder import PACKED
from fggp_deploy.common.files import sha256_file
from fggp_deploy.common.timing import MOST_HELD_UP
from fggp_deploy.errors import ConfigError, FileError, command
from fggp_deploy.verification.report_files import find_report
from fggp_deploy.verification.schema import REPORT, read_report

DELTA_POINTS = 0.5  # the δ of prune potential, Lost in Pruning's


@dataclass(frozen=True)
class Measure:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Candidate:
    """What a report says of one file, of its dense model, or of the dense int8 baseline.

    `top1` is in [0, 1]. `latency_ms` is the median on the kernels if the file runs on them,
    otherwise on stock ONNX Runtime. `errors` is the mean error in [0, 1] by distribution: "test",
    and each kind of corruption that was measured. `beaten_by` names a file that is no worse in
    accuracy, latency and bytes and better in one.
    """

    name: str
    sparsity: float
    file_bytes: int
    top1: Measure | None
    latency_ms: Measure
    errors: dict[str, float]
    beaten_by: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The candidates, the sparsest last, and notes for the reader.

    `potential` is, by distribution, the largest sparsity whose error is at most the dense model's
    plus δ = 0.5 points (Lost in Pruning, 2021), or 0 if there is none; it is empty for fewer than
    two pruned files. `judged` is False if the files were measured on different images; then they
    are not ranked.
    """

    candidates: tuple[Candidate, ...]
    potential: dict[str, float]
    notes: tuple[str, ...]
    judged: bool = True


def compare(paths: Sequence[Path]) -> Comparison:
    """Read the reports of run folders, model files or report.json files that `verify` wrote.

    Raises ConfigError for fewer than two files or a file without a report, FileError for a report
    that is damaged or describes another file than the one beside it.
    """
    if len(paths) < 2:
        raise ConfigError(f"compare needs at least two runs, files or reports, got {len(paths)}")
    found = [(str(path), *_find(path)) for path in paths]
    reports = [read_report(report) for _, report, _ in found]
    candidates = []
    try:
        for (name, path, model), report in zip(found, reports, strict=True):
            if model is not None and sha256_file(model) != report["model"]["sha256"]:
                raise FileError(
                    f"{path} describes a file that is not {model}; verify {model} again"
                )
            candidates.append(_candidate(name, report))
        candidates += [*_dense_models(reports), *_int8_baselines(reports)]
        notes = _notes(reports)
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise FileError(f"a report has no valid value for {e}; verify the files again") from e
    ordered = sorted(candidates, key=lambda c: c.sparsity)
    judged = len({_measured_on(report) for report in reports}) == 1
    if not judged:
        return Comparison(tuple(ordered), {}, notes, judged)
    return Comparison(tuple(_judged(ordered)), _potential(ordered), notes)


def _find(path: Path) -> tuple[Path, Path | None]:
    """A report, and the model file that it should describe, if there is one."""
    if path.suffix == ".json":
        return path, None
    folder = path if path.is_dir() and path.suffix != ".csr" else path.parent
    model = folder / PACKED if folder == path else path
    report = find_report(folder, model.name)
    if not report.is_file():
        run = command("fggp-deploy", "verify", path)
        raise ConfigError(f"{path}: there is no {REPORT}; run {run} first")
    return report, model if model.exists() else None


def _candidate(name: str, report: dict[str, Any]) -> Candidate:
    timings = report["latency"]["timings"]
    best = timings.get("kernels", timings["model"])
    top1 = report["accuracy"]["model"]["top1"] if report["accuracy"] else None
    return Candidate(
        name=name,
        sparsity=float(report["sparsity"]),
        file_bytes=int(report["model"]["file_bytes"]),
        top1=_share(top1) if top1 else None,
        latency_ms=_latency(best),
        errors=_errors(report, "model"),
    )


def _dense_models(reports: Iterable[dict[str, Any]]) -> list[Candidate]:
    """Each dense model once, from the first report that measured it."""
    found: dict[str, Candidate] = {}
    for report in reports:
        reference = report["reference"]
        if reference is None or reference["sha256"] in found:
            continue
        own = report["accuracy"]["reference"] if report["accuracy"] else None
        found[reference["sha256"]] = Candidate(
            name="dense model" if not found else f"dense model {len(found) + 1}",
            sparsity=0.0,
            file_bytes=int(reference["file_bytes"]),
            top1=_share(own["top1"]) if own else None,
            latency_ms=_latency(report["latency"]["timings"]["reference"]),
            errors=_errors(report, "reference"),
        )
    return list(found.values())


def _int8_baselines(reports: Iterable[dict[str, Any]]) -> list[Candidate]:
    """Each dense int8 baseline once, from the first report that measured it."""
    found: dict[str, Candidate] = {}
    for report in reports:
        timed, measured = report["latency"]["timings"].get("int8"), report.get("int8")
        if timed is None or measured is None or report["reference"]["sha256"] in found:
            continue
        found[report["reference"]["sha256"]] = Candidate(
            name="dense int8" if not found else f"dense int8 {len(found) + 1}",
            sparsity=0.0,
            file_bytes=int(measured["file_bytes"]),
            top1=_share(measured["scores"]["top1"]),
            latency_ms=_latency(timed),
            errors={},
        )
    return list(found.values())


def _errors(report: dict[str, Any], who: str) -> dict[str, float]:
    errors = {}
    if report["accuracy"] and report["accuracy"][who]:
        errors["test"] = 1 - float(report["accuracy"][who]["top1"]["value"])
    if report["robustness"]:
        kinds: dict[str, list[float]] = {}
        for shift in report["robustness"]["shifts"]:
            kinds.setdefault(str(shift["kind"]), []).append(float(shift[f"{who}_error"]["value"]))
        errors |= {kind: sum(values) / len(values) for kind, values in kinds.items()}
    return errors


def _judged(candidates: Sequence[Candidate]) -> Iterable[Candidate]:
    for c in candidates:
        better = [o for o in candidates if o is not c and _beats(o, c)]
        yield Candidate(**{**c.__dict__, "beaten_by": better[0].name if better else None})


def _beats(a: Candidate, b: Candidate) -> bool:
    def figures(c: Candidate) -> tuple[float, float, float]:
        return (-c.top1.value if c.top1 else 0.0, c.latency_ms.value, float(c.file_bytes))

    if a.top1 is None or b.top1 is None:
        return False
    return figures(a) != figures(b) and all(
        x <= y for x, y in zip(figures(a), figures(b), strict=True)
    )


def _potential(candidates: Sequence[Candidate]) -> dict[str, float]:
    dense_models = [c for c in candidates if c.name.startswith("dense model")]
    pruned = [c for c in candidates if not c.name.startswith("dense ")]
    if len(dense_models) != 1 or len({c.sparsity for c in pruned}) < 2:
        return {}
    potential = {}
    for name, dense in dense_models[0].errors.items():
        if all(name in c.errors for c in pruned):
            within = [c.sparsity for c in pruned if 100 * (c.errors[name] - dense) <= DELTA_POINTS]
            potential[name] = max(within, default=0.0)
    return potential


def _measured_on(report: dict[str, Any]) -> tuple[Any, ...] | None:
    return (report["accuracy"]["data"], report["accuracy"]["n"]) if report["accuracy"] else None


def _notes(reports: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """What limits the comparison."""
    asked = {
        "data": _measured_on,
        "processor": lambda r: r["provenance"]["hardware"].get("cpu"),
        "threads": lambda r: r["latency"]["threads"],
        "batch": lambda r: r["latency"]["batch"],
        "dense model": lambda r: r["reference"] and r["reference"]["sha256"],
    }
    notes = [
        f"The reports differ in {name}; figures that depend on it cannot be compared."
        for name, of in asked.items()
        if len({str(of(r)) for r in reports}) > 1
    ]
    notes.append(
        "Latencies come from separate runs of verify; a difference of a few percent may come from "
        "the state of the machine."
    )
    if busy := [r for r in reports if any(map(_held_up, r["latency"]["timings"].values()))]:
        notes.append(
            f"{len(busy)} of the reports were measured on a machine that was too busy to measure "
            "speed; verify them again when nothing else runs."
        )
    if failed := [r["model"]["name"] for r in reports if not r["passed"]]:
        notes.append(f"{len(failed)} of the reports failed a check or gate.")
    return tuple(notes)


def _held_up(timing: dict[str, Any]) -> bool:
    return float(timing.get("held_up", 0.0)) > MOST_HELD_UP


def _share(p: dict[str, Any]) -> Measure:
    return Measure(float(p["value"]), float(p["low"]), float(p["high"]))


def _latency(t: dict[str, Any]) -> Measure:
    return Measure(float(t["median_ms"]), float(t["median_low_ms"]), float(t["median_high_ms"]))
