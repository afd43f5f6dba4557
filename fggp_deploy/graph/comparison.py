"""Parity: whether two runs of one network agree. Every tolerance of the package is defined here.

The error of a float output is its largest difference over the largest expected value: sums in
another order differ by roundings of large values, whichever value is compared. The error of an
integer or boolean output is the share of elements that differ. NaN agrees with NaN in the same
place, and an infinity with the same infinity.

An output agrees if its largest difference is at most `ATOL` + `RTOL` · its largest expected value,
plus `STOCK_FACTOR` times how far stock ONNX Runtime without graph optimizations is from stock ONNX
Runtime with them. The last part and `ATOL` cover outputs that rounding decides, such as those of a
sigmoid that is nearly zero. So outputs that are all below `ATOL` always agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RTOL = 1e-4
ATOL = 1e-6  # eight roundings of a float32 near 1: a sigmoid near zero is no more accurate
# Int8 activations: a sum on the border of two int8 values may be rounded up or down, and so may the
# sums after it.
BYTES_RTOL = 0.1
# Rounded weights, compared with the network before rounding. Users judge this change themselves.
ROUNDED_RTOL = 0.05
INTEGER_SHARE = 0.01  # of an integer output's elements, such as a class for each pixel
STOCK_FACTOR = 4
EPSILONS = 4  # rounding steps by which an output of a short type, such as float16, may differ
# A file's self-test is run with other versions of ONNX Runtime on other machines. A value may
# differ by SELF_TEST_RTOL of itself, plus what `recorded_atol` or `logits_atol` returns.
SELF_TEST_RTOL = 1e-3
SELF_TEST_ATOL = 1e-4
SELF_TEST_INTEGER_SHARE = 0.05  # of at most 64 recorded values

Outputs = Sequence[Array]


@dataclass(frozen=True)
class Parity:
    """The error of the output that is worst for its limit, and that limit."""

    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether every output agrees; False if the shape of one differs."""
        return self.error <= self.limit


def rtol_for(*, in_bytes: bool) -> float:
    """The tolerance for a network; `in_bytes`: its activations are rounded to bytes."""
    return BYTES_RTOL if in_bytes else RTOL


def parity_of(
    got: Outputs,
    want: Outputs,
    *,
    rtol: float = RTOL,
    unoptimized: Callable[[], Outputs] | None = None,
) -> Parity:
    """Compare the outputs of two runs on the same inputs.

    `want` are the outputs of stock ONNX Runtime. `unoptimized` returns those of the same network
    without graph optimizations; it is called only if the outputs do not agree without it.
    """
    errors = [output_error(g, w) for g, w in zip(got, want, strict=True)]
    limits = [_least_limit(w, rtol) for w in want]
    found = _worst(errors, limits)
    if found.passed or unoptimized is None:
        return found
    again = unoptimized()
    wider = [_wider(limit, u, w) for limit, u, w in zip(limits, again, want, strict=True)]
    return _worst(errors, wider)


def relative_error(got: Outputs, want: Outputs) -> float:
    """The largest error of an output; NaN if shapes differ, or if only one of two values is NaN.

    Outputs that are not numbers, such as lists of dictionaries, are skipped.
    """
    errors = [output_error(g, w) for g, w in zip(got, want, strict=True)]
    return float(np.max(errors, initial=0.0))


def output_error(got: Array, want: Array) -> float:
    """The error of one output, as the module defines it.

    >>> output_error(np.array([1.0, -3.0, np.nan]), np.array([1.0, -4.0, np.nan]))
    0.25
    """
    if got.shape != want.shape:
        return float("nan")
    if want.dtype.kind not in "fiub":
        return 0.0
    if want.dtype.kind != "f":
        return int(np.count_nonzero(got != want)) / max(1, want.size)
    return largest_difference(got, want) / scale(want)


def differences(got: Array, want: Array) -> npt.NDArray[np.float64]:
    """The absolute difference of each element of two arrays of one shape.

    It is 0 for NaN and NaN, and for equal infinities. It is NaN if only one of two values is NaN.

    >>> differences(np.array([1.0, np.nan, np.inf, np.nan]), np.array([3.0, np.nan, np.inf, 1.0]))
    array([ 2.,  0.,  0., nan])
    """
    same = (got == want) | ((got != got) & (want != want))  # only NaN is not itself
    found = np.zeros(want.shape)
    np.subtract(got, want, out=found, where=~same, dtype=np.float64)
    return np.abs(found, out=found)


def largest_difference(got: Array, want: Array) -> float:
    """The largest of `differences`; NaN if one is NaN."""
    return float(differences(got, want).max(initial=0))


def tolerance_ratios(
    got: Array, want: Array, *, rtol: float, atol: float
) -> npt.NDArray[np.float64]:
    """Each element's difference over its own tolerance, atol + rtol · |want|.

    An element passes if its ratio is at most 1. This is for values that a file records with their
    tolerances, and for single values that are judged on their own. Without a tolerance, the ratio
    of different values is infinite.
    """
    found = differences(got, want)
    with np.errstate(divide="ignore"):
        np.divide(found, atol + rtol * np.abs(want.astype(float)), out=found, where=found != 0)
    return found


def scale(want: Array) -> float:
    """The largest finite magnitude of a float output; 1 if all are zero."""
    return float(np.abs(want[np.isfinite(want)]).max(initial=0)) or 1.0


def recorded_atol(want: Array, noise: float) -> float:
    """The absolute tolerance of a self-test for a float output; `noise` is its entry in `noise`."""
    share = max(SELF_TEST_ATOL, EPSILONS * float(np.finfo(want.dtype).eps))
    return ATOL + share * scale(want) + STOCK_FACTOR * noise


def logits_atol(logits: Array, *, in_bytes: bool) -> float:
    """The absolute tolerance of a self-test for logits.

    Logits below 1 count as 1, since probabilities follow from their differences.
    """
    largest = float(np.abs(logits).max(initial=0))
    return (BYTES_RTOL if in_bytes else SELF_TEST_ATOL) * max(1.0, largest)


def noise(stock: Mapping[str, Array], unoptimized: Mapping[str, Array]) -> dict[str, float]:
    """How far stock ONNX Runtime without graph optimizations is from stock ONNX Runtime, by output.

    It is the largest difference of a float output, the share of other elements that differ, and NaN
    if the shapes differ.
    """
    found = {}
    for name, y in stock.items():
        error = output_error(unoptimized[name], y)
        found[name] = error * scale(y) if y.dtype.kind == "f" else error
    return found


def _least_limit(want: Array, rtol: float) -> float:
    if want.dtype.kind == "f":
        return max(rtol, EPSILONS * float(np.finfo(want.dtype).eps)) + ATOL / scale(want)
    return max(rtol, INTEGER_SHARE)


def _wider(limit: float, unoptimized: Array, want: Array) -> float:
    """A limit that also allows the difference between two stock sessions."""
    own = output_error(unoptimized, want)
    if np.isnan(own):  # the shape differs each time, so nothing can be compared
        return float("inf")
    return limit + STOCK_FACTOR * own


def _worst(errors: Sequence[float], limits: Sequence[float]) -> Parity:
    every = [Parity(e, limit) for e, limit in zip(errors, limits, strict=True)]
    failed = [a for a in every if not a.passed]
    return max(failed or every, key=lambda a: a.error, default=Parity(0.0, RTOL))
