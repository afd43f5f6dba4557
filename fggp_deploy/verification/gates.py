"""The gates: limits that decide whether a file may ship.

To add one: a field in `Gates`, a row in `GATES` that says how it is judged, and its option in
`cli/verify_options.py`. Policy files and the report read the rest from `GATES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fggp_deploy.errors import ConfigError
from fggp_deploy.measure.evaluate import Paired
from fggp_deploy.measure.latency import Speedup, Timing
from fggp_deploy.measure.robustness import Robustness
from fggp_deploy.verification.verdict import Verdict

Estimate = tuple[float, float]  # the point estimate, and the bad end of its 95% interval


@dataclass(frozen=True)
class Figures:
    """The figures that gates judge; None if a figure was not measured.

    `paired` has one entry for each way of running the file, compared with the dense model; the
    worst is judged. `too_busy` says why speed could not be measured, and is empty if it was.
    """

    paired: Sequence[Paired]
    speedup: Speedup | None
    timing: Timing
    file_bytes: int
    robustness: Robustness | None = None
    too_busy: str = ""


@dataclass(frozen=True)
class Gates:
    """The limits; None means no limit.

    `max_drop_points` is top-1 accuracy lost to the dense model, in percentage points (1.0: from 92%
    to 91%). `min_speedup` is the dense model's median latency over the file's. `max_latency_ms` is
    the file's median latency of one run at the given batch. `min_agreement` is the smallest share
    of test images, in [0, 1], on which the file and the dense model predict the same class.
    `max_excess_points` is the largest mean excess error under corruptions, in percentage points.

    The point estimate decides; with `strict` the bad end of its 95% interval does. If the file runs
    on the sparse kernels, accuracy and agreement must hold there and on stock ONNX Runtime, and the
    latency is that of the kernels. Limits on speed fail if the machine was too busy to measure it.
    """

    max_drop_points: float | None = None
    min_speedup: float | None = None
    max_bytes: int | None = None
    max_latency_ms: float | None = None
    max_excess_points: float | None = None
    min_agreement: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        for gate in GATES:
            limit = getattr(self, gate.name)
            if limit is not None and not gate.range.holds(limit):
                raise ConfigError(f"{gate.name} must be {gate.range.words}, got {limit}")

    def require(self, *, data: bool, dense_model: bool, robustness: bool = False) -> None:
        """Raise ConfigError if a limit needs something that is not available or not measured."""
        available = {DATA: data, DENSE_MODEL: dense_model, ROBUSTNESS: robustness}
        for need, cure in _CURES.items():
            for gate in GATES:
                chosen = getattr(self, gate.name) is not None
                if chosen and need in gate.needs and not available[need]:
                    raise ConfigError(f"the gate on {gate.on} needs {cure}")


@dataclass(frozen=True)
class Range:
    """The values that a limit may have, and how an error states them."""

    holds: Callable[[float], bool]
    words: str


@dataclass(frozen=True)
class Gate:
    """How one limit is judged.

    `name` is its field in `Gates`, `option` its name on the command line and in a policy, and
    `topic` the subject whose figures the report marks if it fails. `on` names the gate in messages
    and `figure` what is judged. `estimates` are the candidates for its value, of which the worst is
    judged; empty if the figure was not measured. `upper`: the value must not exceed the limit;
    otherwise it must not fall below. `exact`: the value has no interval. A gate on speed fails on a
    machine that is too busy.
    """

    name: str
    option: str
    topic: str
    on: str
    figure: str
    unit: str
    upper: bool
    range: Range
    estimates: Callable[[Figures], Sequence[Estimate]]
    needs: frozenset[str] = frozenset()
    exact: bool = False

    def judge(self, limit: float, figures: Figures, *, strict: bool) -> Verdict | None:
        """The verdict on `limit`, or None if the figure was not measured."""
        values = [bad if strict else point for point, bad in self.estimates(figures)]
        if not values:
            return None
        value = max(values) if self.upper else min(values)
        passed = value <= limit if self.upper else value >= limit
        if self.topic == SPEED and figures.too_busy:
            return Verdict(self.name, limit, value, self.unit, False, figures.too_busy)
        return Verdict(self.name, limit, value, self.unit, passed, self._how(strict=strict))

    def _how(self, *, strict: bool) -> str:
        if self.exact:
            return self.figure
        if strict:
            end = "upper" if self.upper else "lower"
            return f"{end} end of the 95% interval of the {self.figure}"
        return f"point estimate of the {self.figure}"


def verdicts(gates: Gates, figures: Figures) -> tuple[Verdict, ...]:
    """The verdicts of the limits that are set; ConfigError if one needs what was not measured."""
    gates.require(
        data=bool(figures.paired),
        dense_model=bool(figures.paired) or figures.speedup is not None,
        robustness=figures.robustness is not None,
    )
    limits = ((gate, getattr(gates, gate.name)) for gate in GATES)
    judged = (
        gate.judge(limit, figures, strict=gates.strict)
        for gate, limit in limits
        if limit is not None
    )
    return tuple(v for v in judged if v is not None)


def names_on(topic: str) -> tuple[str, ...]:
    """The names of the gates on a topic."""
    return tuple(gate.name for gate in GATES if gate.topic == topic)


DATA, DENSE_MODEL, ROBUSTNESS = "data", "dense model", "robustness"
ACCURACY, SIZE, SPEED = "accuracy", "size", "speed"  # topics; ROBUSTNESS is one too
_CURES = {
    DATA: "labeled data and a metric for them; give --data for an image classifier",
    ROBUSTNESS: "--robustness quick or full",
    DENSE_MODEL: "the dense model and there is no reference.onnx beside the model; give "
    "--reference",
}
_POINTS = Range(lambda x: -100 <= x <= 100, "in [-100, 100] percentage points")
_SHARE = Range(lambda x: 0 <= x <= 1, "in [0, 1]")
_POSITIVE = Range(lambda x: math.isfinite(x) and x > 0, "positive and finite")

GATES = (
    Gate(
        "max_drop_points", "max_drop", ACCURACY,
        "lost accuracy", "top-1 drop", "points", True, _POINTS,
        lambda f: [(p.drop_points, p.drop_high) for p in f.paired],
        frozenset({DATA, DENSE_MODEL}),
    ),
    Gate(
        "min_agreement", "min_agreement", ACCURACY,
        "agreement", "share", "", False, _SHARE,
        lambda f: [(p.agreement.value, p.agreement.low) for p in f.paired],
        frozenset({DATA, DENSE_MODEL}),
    ),
    Gate(
        "max_excess_points", "max_excess_error", ROBUSTNESS,
        "excess error", "mean excess error", "points", True, _POINTS,
        lambda f: [(f.robustness.excess_points, f.robustness.excess_high)] if f.robustness else [],
        frozenset({DATA, DENSE_MODEL, ROBUSTNESS}),
    ),
    Gate(
        "min_speedup", "min_speedup", SPEED,
        "speed-up", "ratio of medians", "×", False, _POSITIVE,
        lambda f: [(f.speedup.value, f.speedup.low)] if f.speedup else [],
        frozenset({DENSE_MODEL}),
    ),
    Gate(
        "max_bytes", "max_bytes", SIZE,
        "size", "size of the file", "bytes", True, _POSITIVE,
        lambda f: [(f.file_bytes, f.file_bytes)], exact=True,
    ),
    Gate(
        "max_latency_ms", "max_latency_ms", SPEED,
        "latency", "median latency", "ms", True, _POSITIVE,
        lambda f: [(f.timing.median_ms, f.timing.median_high_ms)],
    ),
)  # fmt: skip
