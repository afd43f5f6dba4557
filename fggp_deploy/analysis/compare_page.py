"""A comparison of files as a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fggp_deploy.analysis.compare import DELTA_POINTS, Candidate, Comparison, Measure
from fggp_deploy.report.page import Lines, Page, Section, Table


def page(found: Comparison) -> Page:
    """Lay out a comparison."""
    blocks: list[str | Table] = [_table(found)]
    scored = [(c, c.top1) for c in found.candidates if c.top1 is not None]
    if scored:
        blocks += [_against(scored, *axis) for axis in _AXES]
    sections = [Section("Accuracy, latency, bytes", blocks)]
    if found.potential:
        sections.append(Section("Prune potential", [_potential(found)]))
    names = [c.name for c in found.candidates if c.beaten_by is None]
    lead = f"No other file is better in accuracy, latency and bytes together: {', '.join(names)}."
    if not found.judged:
        lead = "The files were measured on different images, so they are not ranked."
    return Page("Comparison", lead, None, [], found.notes, sections)


def _table(found: Comparison) -> Table:
    rows = [
        (
            c.name,
            f"{c.sparsity:.2%}",
            _text(c.top1, 100, "%"),
            _text(c.latency_ms, 1, " ms"),
            f"{c.file_bytes:,}",
            _rank(c) if found.judged else "–",
        )
        for c in found.candidates
    ]
    head = ["file", "sparsity", "top-1", "median latency", "bytes", "among these"]
    caption = (
        "Intervals are 95%: Wilson's for accuracy, order statistics over sessions for latency. "
        "A file is beaten if another is no worse in all three and better in one, by the point "
        "estimates."
    )
    return Table(caption, head, rows)


def _rank(c: Candidate) -> str:
    return "not beaten" if c.beaten_by is None else f"beaten by {c.beaten_by}"


_Axis = tuple[str, Callable[[Candidate], float], str, int]
# Title, value, label and digits of each chart's x axis.
_AXES: tuple[_Axis, ...] = (
    ("Accuracy against sparsity", lambda c: 100 * c.sparsity, "sparsity, %", 2),
    ("Accuracy against latency", lambda c: c.latency_ms.value, "median latency, ms", 3),
    ("Accuracy against size", lambda c: c.file_bytes / 1000, "kB", 1),
)


def _against(
    scored: Sequence[tuple[Candidate, Measure]],
    title: str,
    x: Callable[[Candidate], float],
    label: str,
    digits: int,
) -> Table:
    points = {c.name: [(x(c), 100 * top1.value)] for c, top1 in scored}
    intervals = {c.name: [(100 * top1.low, 100 * top1.high)] for c, top1 in scored}
    chart = Lines(title, points, label, "top-1, %", intervals, scattered=True)
    rows = [(c.name, f"{x(c):,.{digits}f}", _text(top1, 100, "%")) for c, top1 in scored]
    return Table(f"{title}.", ["file", label, "top-1"], rows, chart)


def _potential(found: Comparison) -> Table:
    caption = (
        "The largest sparsity among these files whose error is at most the dense model's plus "
        f"{DELTA_POINTS} points, by distribution (Liebenwein et al., Lost in Pruning, 2021), by "
        "the point estimates. For corruptions the error is the mean over the measured severities."
    )
    rows = [(name, f"{value:.2%}") for name, value in found.potential.items()]
    return Table(caption, ["distribution", "prune potential"], rows)


def _text(m: Measure | None, scale: float, unit: str) -> str:
    if m is None:
        return "–"
    digits = 2 if unit == "%" else 3
    low, high = f"{scale * m.low:.{digits}f}", f"{scale * m.high:.{digits}f}"
    return f"{scale * m.value:.{digits}f}{unit} ({low} to {high})"
