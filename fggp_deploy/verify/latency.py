"""Latency of several networks side by side, and whether one is faster than another.

The same file loaded twice differs by some percent for as long as the two sessions live: where
their memory lies, and on which cores their threads land. Rounds within a session cannot show that
spread, so every contender is loaded afresh ten times, and the intervals are over those sessions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fggp_deploy.errors import ConfigError

N_SESSIONS = 10
N_WARMUP = 5  # rounds in each session that are not counted
MIN_ROUNDS, MAX_ROUNDS = 3, 1_000  # in each session
N_RESAMPLES = 10_000
PERCENTILES = tuple(range(0, 101, 2))

Run = Callable[[], object]
Milliseconds = Sequence[npt.NDArray[np.float64]]  # for each session, one entry a round


@dataclass(frozen=True)
class Timing:
    """One network's latency over `n` rounds in `sessions` sessions.

    `median_ms` is the median of the sessions' medians and [median_low_ms, median_high_ms] its 95%
    interval by order statistics; `p90_ms` and `p99_ms` are over all rounds, and so are
    `percentiles_ms`, the 0th to the 100th in steps of 2.
    """

    n: int
    sessions: int
    median_ms: float
    median_low_ms: float
    median_high_ms: float
    p90_ms: float
    p99_ms: float
    percentiles_ms: tuple[float, ...]


@dataclass(frozen=True)
class Speedup:
    """The reference's median latency over the network's: above 1 the network is faster.

    `value` is the median of the sessions' ratios of medians, over `n` paired rounds in `sessions`
    sessions; [low, high] is its 95% interval.
    """

    n: int
    sessions: int
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
    contenders: Mapping[str, Callable[[], Run]],
    *,
    seconds: float,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Milliseconds]:
    """Time every contender once a round: name → ms for each session [rounds].

    A contender is a function that opens a session and returns what runs it once. The order is
    shuffled by `rng` in every round, and rounds are paired: what disturbs the machine disturbs all
    alike. A contender runs once untimed just before its timed run, so that it finds its own weights
    in the caches, as it does when deployed alone. `seconds` are shared by the ten sessions, without
    loading and warm-up; each has 3 to 1,000 rounds. `progress(done, total)` counts sessions.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds must be positive and finite, got {seconds}")
    names = list(contenders)
    samples: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in names}
    for session in range(N_SESSIONS):
        progress(session, N_SESSIONS)
        runs = {names[i]: contenders[names[i]]() for i in rng.permutation(len(names))}
        for name, ms in _rounds(runs, seconds / N_SESSIONS, rng, clock).items():
            samples[name].append(np.asarray(ms))
    progress(N_SESSIONS, N_SESSIONS)
    return dict(samples)


def _rounds(
    runs: Mapping[str, Run], seconds: float, rng: np.random.Generator, clock: Callable[[], float]
) -> dict[str, list[float]]:
    names = list(runs)
    ms: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(N_WARMUP):
        for run in runs.values():
            run()
    begin = clock()
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and clock() - begin >= seconds:
            break
        for i in rng.permutation(len(names)):
            run = runs[names[i]]
            run()
            start = clock()
            run()
            ms[names[i]].append(1000 * (clock() - start))
    return ms


def timing(ms: Milliseconds) -> Timing:
    """Summarise one contender; with fewer than 6 sessions the median has no 95% interval."""
    medians = [float(np.median(session)) for session in ms]
    interval = stats.quantile_test(medians, q=medians[0], p=0.5).confidence_interval(0.95)
    rounds = np.concatenate(ms)
    p90, p99 = (float(q) for q in np.percentile(rounds, [90, 99]))
    low, high = float(interval.low), float(interval.high)
    every = tuple(float(q) for q in np.percentile(rounds, PERCENTILES))
    return Timing(len(rounds), len(medians), float(np.median(medians)), low, high, p90, p99, every)


def speedup(reference_ms: Milliseconds, ms: Milliseconds, rng: np.random.Generator) -> Speedup:
    """Median over sessions of the ratio of medians, with its bootstrap interval over sessions.

    Sessions are few, where a plain percentile interval is too narrow; so it is taken at the
    expanded levels of Hesterberg, "What teachers should know about the bootstrap", 2015, section 5.
    """
    pairs = zip(reference_ms, ms, strict=True)
    ratios = np.array([np.median(reference) / np.median(own) for reference, own in pairs])
    k = len(ratios)
    medians = np.median(ratios[rng.integers(k, size=(N_RESAMPLES, k))], axis=1)
    tail = float(stats.norm.cdf(math.sqrt(k / (k - 1)) * stats.t.ppf(0.025, k - 1)))
    low, high = (float(q) for q in np.quantile(medians, [tail, 1 - tail]))
    return Speedup(sum(map(len, ms)), k, float(np.median(ratios)), low, high)


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
