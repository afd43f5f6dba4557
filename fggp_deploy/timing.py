"""Interleaved timing: the one way in which this package compares speeds. Needs numpy only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Run = Callable[[], object]
CONFIDENCE = 0.95


def rounds(
    runs: Mapping[str, Run],
    *,
    seconds: float,
    rng: np.random.Generator,
    least: int = 3,
    most: int = 1_000,
    warmup: int = 5,
    enough: Callable[[Mapping[str, list[float]]], bool] = lambda ms: False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every contender once a round, in an order that `rng` shuffles: name → ms [rounds].

    Rounds are paired: what disturbs the machine disturbs all alike. A contender runs once untimed
    just before its timed run, so that it finds its own weights in the caches, as it does when
    deployed alone. There are `least` to `most` rounds; between them it ends after `seconds`, or
    when `enough` says so of what was measured.
    """
    names = list(runs)
    ms: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warmup):
        for run in runs.values():
            run()
    begin = clock()
    for done in range(most):
        if done >= least and (clock() - begin >= seconds or enough(ms)):
            break
        for i in rng.permutation(len(names)):
            run = runs[names[i]]
            run()
            start = clock()
            run()
            ms[names[i]].append(1000 * (clock() - start))
    return ms


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the median by order statistics, whatever the distribution.

    NaN twice for fewer than 6 values, which have none.
    """
    n, outside, tail = len(values), 0, 0.0
    for k in range(n):  # P(Binomial(n, 1/2) < outside) is at most half of what confidence leaves
        tail += math.comb(n, k) / 2**n
        if tail > (1 - CONFIDENCE) / 2:
            break
        outside = k + 1
    if outside == 0:
        return math.nan, math.nan
    ordered = sorted(values)
    return float(ordered[outside - 1]), float(ordered[n - outside])
