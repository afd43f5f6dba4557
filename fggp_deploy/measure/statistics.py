"""Proportions, means and differences of paired proportions, with their intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

N_RESAMPLES = 10_000
N_MEANS = 2_000  # resamples of a mean, which read every value each time
ALPHA = 0.05  # significance level of p-values after Holm's correction


@dataclass(frozen=True)
class Proportion:
    """`k` of `n`: the share `value` and its Wilson 95% interval [low, high], all in [0, 1]."""

    k: int
    n: int
    value: float
    low: float
    high: float


def proportion(k: int, n: int) -> Proportion:
    """k of n with its Wilson 95% interval; n must be at least 1."""
    interval = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    return Proportion(k, n, k / n, float(interval.low), float(interval.high))


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p of McNemar's test: a fair coin on the discordant pairs; 1 without any."""
    if lost + gained == 0:
        return 1.0
    return float(stats.binomtest(lost, lost + gained, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the order given.

    Holm, "A simple sequentially rejective multiple test procedure", 1979: calling those
    below 0.05 different has at most a 5% chance that any one of them is not.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [1.0] * len(order), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, (len(order) - rank) * p_values[i])
        adjusted[i] = min(1.0, largest)
    return adjusted


def difference_interval(lost: int, gained: int, n: int) -> tuple[float, float]:
    """95% interval of (lost − gained) / n for paired proportions, in [−1, 1].

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
    2005: Wald's interval after adding one half to each cell of the 2×2 table. Unlike Wald's it
    has a width when no pair is discordant.
    """
    b, c, m = lost + 0.5, gained + 0.5, n + 2
    center = (b - c) / m
    half = float(stats.norm.ppf(0.975)) * math.sqrt(b + c - (b - c) ** 2 / m) / m
    return max(-1.0, center - half), min(1.0, center + half)


def bootstrap_difference(
    lost: int, gained: int, n: int, rng: np.random.Generator | None = None
) -> tuple[float, float]:
    """95% percentile interval of (lost − gained) / n over 10,000 resamples of the n images.

    An image counts +1, −1 or 0, so resampling n images is one multinomial draw of the counts.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    shares = np.array([lost, gained, n - lost - gained]) / n
    drawn = rng.multinomial(n, shares, size=N_RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / n, [2.5, 97.5])
    return float(low), float(high)


def excess_interval(
    each: npt.NDArray[np.int64], rng: np.random.Generator | None = None
) -> tuple[float, float]:
    """95% bootstrap interval of the mean of per-image excess errors, each in −2..2."""
    rng = np.random.default_rng(0) if rng is None else rng
    values = np.arange(-2, 3)
    shares = np.array([(each == v).mean() for v in values])
    drawn = rng.multinomial(len(each), shares / shares.sum(), size=N_RESAMPLES)
    low, high = np.percentile(drawn @ values / len(each), [2.5, 97.5])
    return float(low), float(high)


def mean_interval(x: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean and its 95% interval by the normal distribution; x of one entry has none."""
    mean = float(x.mean())
    half = 1.959964 * float(x.std(ddof=1)) / len(x) ** 0.5 if len(x) > 1 else 0.0
    return mean, mean - half, mean + half


def bootstrap_points(x: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of per-image values in percentage points, and its bootstrap 95% interval."""
    rng = np.random.default_rng(0)
    means = [x[rng.integers(len(x), size=len(x))].mean() for _ in range(N_MEANS)]
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(x.mean()), 100 * float(low), 100 * float(high)
