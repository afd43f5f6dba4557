"""Interleaved timing: the one way in which this package compares speeds. Needs numpy only."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

TimedCall = Callable[[], object]
CONFIDENCE = 0.95
# A run is held up if its threads waited for a core for more than this share of its time, and for
# more than these seconds: waking a thread on an idle core takes some microseconds too.
HELD_UP_SHARE, HELD_UP_SECONDS = 0.1, 1e-4
MOST_HELD_UP = 0.25  # share of delayed runs; above it, the median measures the other programs
_TASKS = Path("/proc/self/task")


def waited_seconds() -> float:
    """Seconds that threads of this process were ready to run and had no core; grows with time.

    Linux counts them for each thread. On other systems it is wall time less CPU time, which sees
    one thread wait but not one of several.
    """
    try:
        threads = list(_TASKS.iterdir())
        return sum(int((t / "schedstat").read_bytes().split()[1]) for t in threads) / 1e9
    except (OSError, IndexError, ValueError):
        return time.perf_counter() - time.process_time()


class Watch:
    """Which timed runs were delayed, because other programs kept the machine busy."""

    def __init__(self, waited: Callable[[], float] | None = None) -> None:
        self.waited = waited or waited_seconds
        self._held_up: dict[str, list[bool]] = defaultdict(list)

    def record(self, name: str, *, waited: float, took: float) -> None:
        """Note a run of the contender `name`: seconds that its threads waited, and that it took."""
        self._held_up[name].append(waited > max(HELD_UP_SHARE * took, HELD_UP_SECONDS))

    def share(self, name: str) -> float:
        """The share of a contender's runs that were held up, 0 without any."""
        runs = self._held_up[name]
        return sum(runs) / len(runs) if runs else 0.0

    @property
    def too_busy(self) -> bool:
        """Whether so many runs of any contender were delayed that medians mean little."""
        return any(self.share(name) > MOST_HELD_UP for name in self._held_up)


def rounds(
    runs: Mapping[str, TimedCall],
    *,
    seconds: float,
    rng: np.random.Generator,
    least: int = 3,
    most: int = 1_000,
    warmup: int = 5,
    enough: Callable[[Mapping[str, list[float]]], bool] = lambda ms: False,
    clock: Callable[[], float] = time.perf_counter,
    watch: Watch | None = None,
) -> dict[str, list[float]]:
    """Time every contender once a round, in an order that `rng` shuffles: name → ms [rounds].

    Rounds are paired: what disturbs the machine disturbs all alike. A contender runs once untimed
    just before its timed run, so that it finds its own weights in the caches, as it does when
    deployed alone. There are `least` to `most` rounds; between them it ends after `seconds`, or
    when `enough` is true for the times so far. `watch` records which runs were delayed.
    """
    watch = watch or Watch()
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
            name, run = names[i], runs[names[i]]
            waited, warm = watch.waited(), clock()
            run()
            start = clock()
            run()
            end = clock()
            watch.record(name, waited=watch.waited() - waited, took=end - warm)
            ms[name].append(1000 * (end - start))
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
