"""Latency of several networks side by side, and whether one is faster than another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fggp_deploy.errors import ConfigError

Milliseconds = npt.NDArray[np.float64]
N_WARMUP = 5
MIN_ROUNDS = 30
MAX_ROUNDS = 10_000
N_RESAMPLES = 2_000


@dataclass(frozen=True)
class Timing:
    """One network's latency over `n` rounds; [median_low_ms, median_high_ms] is the 95% interval
    of the median by order statistics.
    """

    n: int
    median_ms: float
    median_low_ms: float
    median_high_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Speedup:
    """The reference's median latency over the network's: above 1 the network is faster.

    [low, high] is the bootstrap 95% interval over `n` paired rounds.
    """

    n: int
    value: float
    low: float
    high: float

    @property
    def measured(self) -> bool:
        """False where the interval contains 1: no difference was measured."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True)
class Latency:
    """Every contender's timing at one setting, and each one's speed-up over the reference."""

    threads: int
    batch: int
    timings: dict[str, Timing]
    speedups: dict[str, Speedup]


def measure(
    contenders: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Milliseconds]:
    """Time every contender once a round, in an order shuffled by `rng`: name → ms [rounds].

    The rounds are paired: what disturbs the machine disturbs all contenders alike. A contender
    runs once untimed just before its timed run, so that it finds its own weights in the caches, as
    it does when deployed alone. Rounds go on for `seconds`, at least 30 and at most 10,000 of
    them, after 5 rounds of warm-up. `progress(done, total)` counts tenths of a second.
    """
    if not (np.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds must be positive and finite, got {seconds}")
    names = list(contenders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(N_WARMUP):
        for name in names:
            contenders[name]()
    begin = clock()
    for done in range(MAX_ROUNDS):
        elapsed = clock() - begin
        progress(min(int(10 * elapsed), int(10 * seconds)), int(10 * seconds))
        if done >= MIN_ROUNDS and elapsed >= seconds:
            break
        for i in rng.permutation(len(names)):
            run = contenders[names[i]]
            run()
            start = clock()
            run()
            samples[names[i]].append(1000 * (clock() - start))
    progress(int(10 * seconds), int(10 * seconds))
    return {name: np.asarray(ms) for name, ms in samples.items()}


def timing(ms: Milliseconds) -> Timing:
    """Summarise ms [rounds]; at least 6 rounds, or the median has no 95% interval."""
    interval = stats.quantile_test(ms, q=float(np.median(ms)), p=0.5).confidence_interval(0.95)
    median, p90, p99 = (float(q) for q in np.percentile(ms, [50, 90, 99]))
    return Timing(len(ms), median, float(interval.low), float(interval.high), p90, p99)


def speedup(reference_ms: Milliseconds, ms: Milliseconds, rng: np.random.Generator) -> Speedup:
    """Ratio of medians, reference over network, with a bootstrap over paired rounds [rounds]."""
    n = len(ms)
    ratios: list[float] = []
    while len(ratios) < N_RESAMPLES:  # in blocks, to bound the memory
        block = min(N_RESAMPLES - len(ratios), max(1, 1_000_000 // n))
        rounds = rng.integers(n, size=(block, n))
        ratios.extend(np.median(reference_ms[rounds], axis=1) / np.median(ms[rounds], axis=1))
    low, high = (float(q) for q in np.percentile(ratios, [2.5, 97.5]))
    return Speedup(n, float(np.median(reference_ms) / np.median(ms)), low, high)


def latency(
    samples: Mapping[str, Milliseconds],
    *,
    reference: str | None,
    threads: int,
    batch: int,
    rng: np.random.Generator,
) -> Latency:
    """Summarise what `measure` returned; the speed-ups are those over the contender `reference`."""
    speedups = {
        name: speedup(samples[reference], ms, rng)
        for name, ms in samples.items()
        if reference is not None and name != reference
    }
    timings = {name: timing(ms) for name, ms in samples.items()}
    return Latency(threads, batch, timings, speedups)
