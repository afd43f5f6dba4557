"""Several verified files side by side: accuracy, latency and bytes, and which are not beaten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fggp_deploy.checkpoints.run_folder import PACKED
from fggp_deploy.common.files import sha256_file
from fggp_deploy.common.timing import MOST_HELD_UP
from fggp_deploy.errors import ConfigError, FileError, command
from fggp_deploy.report.page import Glance, Lines, Page, Section, Table
from fggp_deploy.verify.report_files import find_report
from fggp_deploy.verify.schema import REPORT, read_report

DELTA_POINTS = 0.5  # the δ of prune potential, Lost in Pruning's


@dataclass(frozen=True)
class Measure:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Candidate:
    """What the report says of one file; the dense model is one too, and the parent in int8.

    `top1` in [0, 1], `latency_ms` the median of the faster of stock onnxruntime and the kernels.
    `errors` is the mean error in [0, 1] by distribution: "test", and each kind of corruption where
    it was measured. `beaten_by` names a file that is no worse in accuracy, latency and bytes and
    better in one.
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
    """The candidates, the sparsest last, and what a reader must know.

    `potential` is by distribution the largest sparsity whose error is at most the dense model's
    plus δ = 0.5 points (Lost in Pruning, 2021), 0 where none is; empty for fewer than two.
    `judged` is False where they were measured on different images: then no file beats another.
    """

    candidates: tuple[Candidate, ...]
    potential: dict[str, float]
    notes: tuple[str, ...]
    judged: bool = True


def compare(paths: Sequence[Path]) -> Comparison:
    """Read the reports of run folders, model files or report.json files that `verify` wrote.

    Raises ConfigError for fewer than two or where there is no report, FileError for a report that
    is damaged or tells of another file than the one beside it.
    """
    if len(paths) < 2:
        raise ConfigError("compare needs at least two runs, files or reports")
    found = [(str(path), *_find(path)) for path in paths]
    reports = [read_report(report) for _, report, _ in found]
    candidates = []
    try:
        for (name, report, model), told in zip(found, reports, strict=True):
            if model is not None and sha256_file(model) != told["model"]["sha256"]:
                raise FileError(f"{report} tells of another file than {model}; verify it again")
            candidates.append(_candidate(name, told))
        candidates += [*_parents(reports), *_rivals(reports)]
        notes = _notes(reports)
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise FileError(f"a report lacks or misstates {e}; verify the files again") from e
    ordered = sorted(candidates, key=lambda c: c.sparsity)
    judged = len({_measured_on(told) for told in reports}) == 1
    if not judged:
        return Comparison(tuple(ordered), {}, notes, judged)
    return Comparison(tuple(_judged(ordered)), _potential(ordered), notes)


def page(found: Comparison) -> Page:
    """Lay out a comparison."""
    with_accuracy = [c for c in found.candidates if c.top1 is not None]
    rows = [
        (
            c.name,
            f"{c.sparsity:.2%}",
            _text(c.top1, 100, "%"),
            _text(c.latency_ms, 1, " ms"),
            f"{c.file_bytes:,}",
            ("not beaten" if c.beaten_by is None else f"beaten by {c.beaten_by}")
            if found.judged
            else "–",
        )
        for c in found.candidates
    ]
    head = ["file", "sparsity", "top-1", "median latency", "bytes", "among these"]
    caption = (
        "Intervals are 95%: Wilson's for accuracy, order statistics over sessions for latency. "
        "A file is beaten where another is no worse in all three and better in one, by the point "
        "estimates."
    )
    blocks: list[str | Table] = [Table(caption, head, rows)]
    for title, x, axis, digits in (
        ("Accuracy against sparsity", lambda c: 100 * c.sparsity, "sparsity, %", 2),
        ("Accuracy against latency", lambda c: c.latency_ms.value, "median latency, ms", 3),
        ("Accuracy against size", lambda c: c.file_bytes / 1000, "kB", 1),
    ):
        if with_accuracy:
            points = {c.name: [(x(c), 100 * c.top1.value)] for c in with_accuracy if c.top1}
            spread = {
                c.name: [(100 * c.top1.low, 100 * c.top1.high)] for c in with_accuracy if c.top1
            }
            chart = Lines(title, points, axis, "top-1, %", spread, scattered=True)
            own = [
                (c.name, f"{x(c):,.{digits}f}", _text(c.top1, 100, "%"))
                for c in with_accuracy
                if c.top1
            ]
            blocks.append(Table(f"{title}.", ["file", axis, "top-1"], own, chart))
    sections = [Section("Accuracy, latency, bytes", blocks)]
    if found.potential:
        text = (
            "The largest sparsity among these files whose error is at most the dense model's "
            f"plus {DELTA_POINTS} points, by distribution (Liebenwein et al., Lost in Pruning, "
            "2021), by the point estimates; corruptions are the mean over the severities measured."
        )
        potentials = [(name, f"{value:.2%}") for name, value in found.potential.items()]
        table = Table(text, ["distribution", "prune potential"], potentials)
        sections.append(Section("Prune potential", [table]))
    names = [c.name for c in found.candidates if c.beaten_by is None]
    lead = f"Not beaten in accuracy, latency and bytes together: {', '.join(names)}."
    if not found.judged:
        lead = "The files were measured on different images, so none is called better than another."
    glance: list[Glance] = []
    return Page("Comparison", lead, None, glance, found.notes, sections)


def _find(path: Path) -> tuple[Path, Path | None]:
    """A report, and the model file that it should tell of where that is there."""
    if path.suffix == ".json":
        return path, None
    folder = path if path.is_dir() and path.suffix != ".csr" else path.parent
    model = folder / PACKED if folder == path else path
    report = find_report(folder, model.name)
    if not report.is_file():
        run = command("fggp-deploy", "verify", path)
        raise ConfigError(f"{path}: no {REPORT} is there; run {run} first")
    return report, model if model.exists() else None


def _candidate(name: str, told: dict[str, Any]) -> Candidate:
    timings = told["latency"]["timings"]
    best = timings.get("kernels", timings["model"])
    top1 = told["accuracy"]["model"]["top1"] if told["accuracy"] else None
    return Candidate(
        name=name,
        sparsity=float(told["sparsity"]),
        file_bytes=int(told["model"]["file_bytes"]),
        top1=_share(top1) if top1 else None,
        latency_ms=_latency(best),
        errors=_errors(told, "model"),
    )


def _parents(reports: Iterable[dict[str, Any]]) -> list[Candidate]:
    """The dense models, each once, from the first report that measured it."""
    parents: dict[str, Candidate] = {}
    for told in reports:
        reference = told["reference"]
        if reference is None or reference["sha256"] in parents:
            continue
        own = told["accuracy"]["reference"] if told["accuracy"] else None
        parents[reference["sha256"]] = Candidate(
            name="dense model" if not parents else f"dense model {len(parents) + 1}",
            sparsity=0.0,
            file_bytes=int(reference["file_bytes"]),
            top1=_share(own["top1"]) if own else None,
            latency_ms=_latency(told["latency"]["timings"]["reference"]),
            errors=_errors(told, "reference"),
        )
    return list(parents.values())


def _rivals(reports: Iterable[dict[str, Any]]) -> list[Candidate]:
    """The dense models in int8, each once, from the first report that measured it."""
    rivals: dict[str, Candidate] = {}
    for told in reports:
        timed, measured = told["latency"]["timings"].get("int8"), told.get("int8")
        if timed is None or measured is None or told["reference"]["sha256"] in rivals:
            continue
        rivals[told["reference"]["sha256"]] = Candidate(
            name="dense int8" if not rivals else f"dense int8 {len(rivals) + 1}",
            sparsity=0.0,
            file_bytes=int(measured["file_bytes"]),
            top1=_share(measured["scores"]["top1"]),
            latency_ms=_latency(timed),
            errors={},
        )
    return list(rivals.values())


def _errors(told: dict[str, Any], who: str) -> dict[str, float]:
    errors = {}
    if told["accuracy"] and told["accuracy"][who]:
        errors["test"] = 1 - float(told["accuracy"][who]["top1"]["value"])
    if told["robustness"]:
        kinds: dict[str, list[float]] = {}
        for shift in told["robustness"]["shifts"]:
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
    parents = [c for c in candidates if c.name.startswith("dense model")]
    pruned = [c for c in candidates if not c.name.startswith("dense ")]
    if len(parents) != 1 or len({c.sparsity for c in pruned}) < 2:
        return {}
    potential = {}
    for name, dense in parents[0].errors.items():
        if all(name in c.errors for c in pruned):
            good = [c.sparsity for c in pruned if 100 * (c.errors[name] - dense) <= DELTA_POINTS]
            potential[name] = max(good, default=0.0)
    return potential


def _measured_on(told: dict[str, Any]) -> tuple[Any, ...] | None:
    return (told["accuracy"]["data"], told["accuracy"]["n"]) if told["accuracy"] else None


def _notes(reports: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """What makes the figures less comparable than they look."""
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
        "Latencies come from separate runs of verify; differences of some percent may be the "
        "machine's state."
    )
    if busy := [r for r in reports if any(map(_held_up, r["latency"]["timings"].values()))]:
        notes.append(
            f"{len(busy)} of the reports were measured on a machine that was too busy to measure "
            "speed; verify those files again when nothing else runs."
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


def _text(m: Measure | None, scale: float, unit: str) -> str:
    if m is None:
        return "–"
    digits = 2 if unit == "%" else 3
    low, high = f"{scale * m.low:.{digits}f}", f"{scale * m.high:.{digits}f}"
    return f"{scale * m.value:.{digits}f}{unit} ({low} to {high})"
