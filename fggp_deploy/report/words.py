"""Measured values in words: each with its interval and its n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from fggp_deploy.measure.latency import Speedup
from fggp_deploy.measure.statistics import Proportion
from fggp_deploy.verification.verdict import Verdict

T = TypeVar("T")
NETWORKS = {  # the names of the networks that the report calls reference and so on, in this order
    "reference": "dense model",
    "int8": "dense int8",
    "model": "this file, stock",
    "kernels": "this file, kernels",
}
FILE, DENSE = "this file", NETWORKS["reference"]  # for figures that do not depend on the runtime


def removed(sparsity: float, before: float | None, of: str) -> str:
    """The share of the weights `of` that is removed.

    `sparsity` is that of the file, `before` that before compaction, or None without compaction.
    """
    if before is None:
        return f"{sparsity:.2%} of {of} removed"
    return f"{before:.2%} of {of} removed, then compacted ({sparsity:.2%} of the rest are zero)"


def by_network(found: Mapping[str, T]) -> dict[str, T]:
    """The same values keyed by the names in `NETWORKS`, the dense model first."""
    return {name: found[key] for key, name in NETWORKS.items() if key in found}


def percent(p: Proportion) -> str:
    """A percentage with its interval."""
    return f"{100 * p.value:.2f}% ({100 * p.low:.2f} to {100 * p.high:.2f})"


def share(p: Proportion) -> str:
    """A percentage with its interval and n."""
    return f"{percent(p).removesuffix(')')}, n = {p.n:,})"


def points(value: float, low: float, high: float) -> str:
    """Percentage points with their interval."""
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def number(x: float) -> str:
    """A number with four digits, or an integer with thousands separators."""
    return f"{x:,}" if isinstance(x, int) else f"{x:.4g}"


def size(n_bytes: float) -> str:
    """Bytes in powers of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.2f} {unit}"
    return f"{n_bytes:.0f} B"


def verdict(v: Verdict) -> str:
    """A verdict in one line: its value, its limit, and how it was decided."""
    unit = f" {v.unit}" if v.unit else ""
    return f"{v.name}: {number(v.value)}{unit}, limit {number(v.limit)} ({v.how})"


def probability(p: float) -> str:
    """A p-value with two digits."""
    return f"{p:.2g}"


def ratio(s: Speedup | None) -> str:
    """A speed-up with its interval; "no difference" if the interval contains 1."""
    if s is None:
        return "1"
    if not s.measured:
        return f"no difference [{s.low:.2f}, {s.high:.2f}]"
    return f"{s.value:.2f}× [{s.low:.2f}, {s.high:.2f}]"


def speedup(s: Speedup) -> str:
    """A speed-up as half a sentence, or that no difference was measured."""
    interval = f"95% interval {s.low:.2f} to {s.high:.2f}"
    interval += f", n = {s.n:,} rounds in {s.sessions} sessions"
    if not s.measured:
        return f"no difference measured (ratio {s.value:.2f}, {interval})"
    if s.value >= 1:
        return f"{s.value:.2f}× as fast as the dense model ({interval})"
    return f"slower than the dense model, {s.value:.2f}× its speed ({interval})"
