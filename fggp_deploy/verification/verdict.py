"""A verdict, and the verdicts of the checks that always hold."""

from __future__ import annotations

from dataclasses import dataclass

from fggp_deploy.verification.parity import Difference
from fggp_deploy.verification.preprocessing_check import MAX_GAIN_POINTS, InputCheck


@dataclass(frozen=True)
class Verdict:
    """One gate or check: `value` against `limit` in `unit`, and in words `how` it was decided."""

    name: str
    limit: float
    value: float
    unit: str
    passed: bool
    how: str


def parity(name: str, found: Difference) -> Verdict:
    """The verdict on a self-test or a parity check; no option relaxes it."""
    relative = f"{found.rtol:g}·|logit| + " if found.rtol else ""
    how = f"largest ratio of a difference to its tolerance, {relative}{found.atol:.3g}"
    return Verdict(name, 1.0, found.worst, "tolerances", found.passed, how)


def equality(name: str, found: str, expected: str, what: str) -> Verdict:
    """The verdict on two hashes or texts that must be equal."""
    return Verdict(name, 0, int(found != expected), "differences", found == expected, what)


def nothing_revived(revived: dict[str, int]) -> Verdict:
    """The verdict on weights that are alive here and zero in the dense model."""
    how = "weights that are zero in the dense model and not here"
    if revived:
        how += f", first in {next(iter(revived))}"
    n = sum(revived.values())
    return Verdict("masks within the dense model's", 0, n, "weights", n == 0, how)


def claimed_sparsity(n_removed: int, recorded: int) -> Verdict:
    """The verdict on the number of removed weights that the file claims."""
    how = f"removed weights counted in the file, {recorded:,} claimed"
    missing = max(0, recorded - n_removed)
    return Verdict("sparsity as claimed", 0, missing, "weights short", missing == 0, how)


def preprocessing(check: InputCheck) -> Verdict:
    """The verdict on the preprocessing that the file records."""
    how = f"top-1 that different preprocessing gains on {check.n:,} test images"
    if not check.passed:
        how += (
            f", here: {check.best}. The file probably does not record the preprocessing of its "
            "training. Export it again with the right one; if it is right, "
            "--no-preprocessing-check skips this check"
        )
    gain = check.gain_points
    return Verdict("preprocessing", MAX_GAIN_POINTS, gain, "points", check.passed, how)
