"""The limits that decide whether a file may ship, and their verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fggp_deploy.errors import ConfigError
from fggp_deploy.measure.evaluate import Paired
from fggp_deploy.measure.latency import Speedup, Timing
from fggp_deploy.verify.parity import Difference
from fggp_deploy.verify.preprocessing_check import MAX_GAIN_POINTS, InputCheck
from fggp_deploy.verify.robustness import Robustness


@dataclass(frozen=True)
class Gates:
    """Limits to hold; None is no limit.

    `max_drop_points` is top-1 accuracy lost to the reference, in percentage points (1.0: from 92%
    to 91%). `min_speedup` is the reference's median latency over the file's. `max_latency_ms` is
    the file's median latency of one run at the batch asked for. `min_agreement` is the least share
    of test images, in [0, 1], on which file and reference answer alike; `max_excess_points` the
    largest mean excess error under corruptions, in percentage points. The point estimate decides;
    with `strict` the bad end of its 95% interval does. Lost accuracy and agreement must hold on
    stock onnxruntime and on the sparse kernels, where the file runs on them; the latency is theirs.
    Limits on speed fail if the machine was too busy to measure it.
    """

    max_drop_points: float | None = None
    min_speedup: float | None = None
    max_bytes: int | None = None
    max_latency_ms: float | None = None
    max_excess_points: float | None = None
    min_agreement: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        for name in ("max_drop_points", "max_excess_points"):
            limit = getattr(self, name)
            if limit is not None and not -100 <= limit <= 100:
                raise ConfigError(f"{name} must be in [-100, 100] percentage points, got {limit}")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise ConfigError(f"min_agreement must be in [0, 1], got {self.min_agreement}")
        for name in ("min_speedup", "max_bytes", "max_latency_ms"):
            limit = getattr(self, name)
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise ConfigError(f"{name} must be positive and finite, got {limit}")

    def require(self, *, data: bool, reference: bool, robustness: bool = False) -> None:
        """Raise ConfigError where a limit needs what is not there or is not measured."""
        on_data = {
            "max_drop_points": "lost accuracy",
            "max_excess_points": "excess error",
            "min_agreement": "agreement",
        }
        for name, what in on_data.items():
            if getattr(self, name) is not None and not data:
                raise ConfigError(f"the gate on {what} needs labelled data; give --data")
        if self.max_excess_points is not None and not robustness:
            raise ConfigError("the gate on excess error needs --robustness quick or full")
        for name, what in (*on_data.items(), ("min_speedup", "speed-up")):
            if getattr(self, name) is not None and not reference:
                raise ConfigError(
                    f"the gate on {what} needs the dense parent and there is no reference.onnx "
                    "beside the model; give --reference"
                )


@dataclass(frozen=True)
class Verdict:
    """One gate: `value` against `limit` in `unit`, and in words `how` it was decided."""

    name: str
    limit: float
    value: float
    unit: str
    passed: bool
    how: str


def agreement(name: str, found: Difference) -> Verdict:
    """The verdict on a self-test or a parity check; no option relaxes it."""
    relative = f"{found.rtol:g}·|logit| + " if found.rtol else ""
    how = f"largest difference over its tolerance, {relative}{found.atol:.3g}"
    return Verdict(name, 1.0, found.worst, "tolerances", found.passed, how)


def equality(name: str, found: str, expected: str, what: str) -> Verdict:
    """The verdict on two hashes or texts that must be the same."""
    return Verdict(name, 0, int(found != expected), "differences", found == expected, what)


def nothing_revived(revived: dict[str, int]) -> Verdict:
    """The verdict on weights that are alive although the parent lacks them."""
    how = "weights that are zero in the parent and not here"
    if revived:
        how += f", first in {next(iter(revived))}"
    n = sum(revived.values())
    return Verdict("masks within the parent's", 0, n, "weights", n == 0, how)


def as_sparse_as_told(n_removed: int, recorded: int) -> Verdict:
    """The verdict on the number of removed weights that the file claims."""
    how = f"removed weights counted in the file, {recorded:,} claimed"
    missing = max(0, recorded - n_removed)
    return Verdict("sparsity as claimed", 0, missing, "weights short", missing == 0, how)


def fed_as_trained(check: InputCheck) -> Verdict:
    """The verdict on the preprocessing in the file."""
    how = f"top-1 that other preprocessing gains on {check.n:,} test images"
    if not check.passed:
        how += (
            f", here: {check.best}; likely the file records other preprocessing than it was "
            "trained with. Export it again with the right one; if it is right, "
            "--no-preprocessing-check skips this check"
        )
    gain = check.gain_points
    return Verdict("preprocessing", MAX_GAIN_POINTS, gain, "points", check.passed, how)


def judge(
    gates: Gates,
    *,
    paired: Sequence[Paired],
    speedup: Speedup | None,
    timing: Timing,
    file_bytes: int,
    robustness: Robustness | None = None,
    too_busy: str = "",
) -> tuple[Verdict, ...]:
    """Judge every limit that is set; `require` must have held, or ConfigError is raised.

    `paired` is each way of running the file against the reference: the worst of them is judged.
    `too_busy` says why speed could not be measured: then no gate on it passes.
    """
    gates.require(
        data=bool(paired),
        reference=bool(paired) or speedup is not None,
        robustness=robustness is not None,
    )
    verdicts = []
    if gates.max_drop_points is not None and paired:
        value, how = max(
            _decide(gates, p.drop_points, p.drop_high, "top-1 drop", "upper") for p in paired
        )
        passed = value <= gates.max_drop_points
        verdicts.append(
            Verdict("max_drop_points", gates.max_drop_points, value, "points", passed, how)
        )
    if gates.min_agreement is not None and paired:
        value, how = min(
            _decide(gates, p.agreement.value, p.agreement.low, "share", "lower") for p in paired
        )
        passed = value >= gates.min_agreement
        verdicts.append(Verdict("min_agreement", gates.min_agreement, value, "", passed, how))
    if gates.max_excess_points is not None and robustness is not None:
        value, how = _decide(
            gates, robustness.excess_points, robustness.excess_high, "mean excess error", "upper"
        )
        passed = value <= gates.max_excess_points
        verdicts.append(
            Verdict("max_excess_points", gates.max_excess_points, value, "points", passed, how)
        )
    if gates.min_speedup is not None and speedup is not None:
        value, how = _decide(gates, speedup.value, speedup.low, "ratio of medians", "lower")
        passed, how = value >= gates.min_speedup and not too_busy, too_busy or how
        verdicts.append(Verdict("min_speedup", gates.min_speedup, value, "×", passed, how))
    if gates.max_bytes is not None:
        passed = file_bytes <= gates.max_bytes
        verdicts.append(
            Verdict("max_bytes", gates.max_bytes, file_bytes, "bytes", passed, "size of the file")
        )
    if gates.max_latency_ms is not None:
        value, how = _decide(
            gates, timing.median_ms, timing.median_high_ms, "median latency", "upper"
        )
        passed, how = value <= gates.max_latency_ms and not too_busy, too_busy or how
        verdicts.append(Verdict("max_latency_ms", gates.max_latency_ms, value, "ms", passed, how))
    return tuple(verdicts)


def _decide(gates: Gates, point: float, bad: float, what: str, end: str) -> tuple[float, str]:
    if gates.strict:
        return bad, f"{end} end of the 95% interval of the {what}"
    return point, f"point estimate of the {what}"
