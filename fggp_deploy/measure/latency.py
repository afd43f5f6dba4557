"""Latency of several networks, interleaved, and whether one is faster than another.

Two sessions of the same file differ by a few percent as long as they live, because their memory and
their threads are placed differently. Rounds within one session cannot show that spread. Therefore
every contender is loaded ten times, and the intervals are over those sessions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import stats

from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.common.timing import MOST_HELD_UP, TimedCall, Watch, median_interval, rounds
from fggp_deploy.errors import ConfigError

N_SESSIONS = 10
MIN_SESSIONS = 6  # fewer have no 95% interval of their median
N_RESAMPLES = 10_000
PERCENTILES = tuple(range(0, 101, 2))

Milliseconds = Sequence[npt.NDArray[np.float64]]  # for each session, one entry a round
Opener = Callable[[int, int], TimedCall]  # (threads, batch): opens a session to run


@dataclass(frozen=True)
class Sampling:
    """How long latencies are measured: `seconds`, shared by `sessions` sessions of each contender.

    `seed` decides the order of the contenders and draws the bootstrap's samples.
    """

    seconds: float
    sessions: int = N_SESSIONS
    seed: int = 0


@dataclass(frozen=True)
class Timing:
    """One network's latency over `n` rounds in `sessions` sessions.

    `median_ms` is the median of the sessions' medians and [median_low_ms, median_high_ms] its 95%
    interval by order statistics; `p90_ms` and `p99_ms` are over all rounds, and so are
    `percentiles_ms`, the 0th to the 100th in steps of 2. `held_up` is the share of the rounds in
    which its threads waited for a core that another program used; see timing.Watch.
    """

    n: int
    sessions: int
    median_ms: float
    median_low_ms: float
    median_high_ms: float
    p90_ms: float
    p99_ms: float
    percentiles_ms: tuple[float, ...]
    held_up: float = 0.0


@dataclass(frozen=True)
class Speedup:
    """The dense model's median latency over the network's: above 1 the network is faster.

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
        """Whether a difference was measured: the interval does not contain 1."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True)
class Latency:
    """Every contender's timing at one setting, and each one's speed-up over the reference.

    `plan` is what `runtime.explain` says of the sparse kernels at this setting. If they are not
    faster than stock ONNX Runtime, they have no timing.
    """

    threads: int
    batch: int
    timings: dict[str, Timing]
    speedups: dict[str, Speedup]
    plan: str = ""

    @property
    def too_busy(self) -> bool:
        """Whether other programs delayed so many rounds that no speed was measured."""
        return any(t.held_up > MOST_HELD_UP for t in self.timings.values())

    @property
    def why_too_busy(self) -> str:
        """Why no speed was measured; empty if the machine was idle enough."""
        if not self.too_busy:
            return ""
        delayed = max(t.held_up for t in self.timings.values())
        return (
            f"the machine was too busy to measure speed: in {delayed:.0%} of the rounds other "
            "programs delayed the network; run this again when nothing else runs"
        )


def measure(
    contenders: Mapping[str, Callable[[], TimedCall]],
    *,
    seconds: float,
    rng: np.random.Generator,
    sessions: int = N_SESSIONS,
    progress: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.perf_counter,
    watch: Watch | None = None,
) -> dict[str, Milliseconds]:
    """Time every contender in interleaved rounds: name → ms for each session [rounds].

    A contender is a function that opens a session and returns a function that runs it once. The
    sessions share `seconds`, without loading and warm-up; each has 3 to 1,000 rounds (see
    `rounds`). `progress(done, total)` counts sessions. `watch` records which rounds were delayed.
    """
    if sessions < MIN_SESSIONS:
        raise ConfigError(f"sessions must be at least {MIN_SESSIONS}, got {sessions}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"seconds must be positive and finite, got {seconds}")
    names = list(contenders)
    samples: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in names}
    for session in range(sessions):
        progress(session, sessions)
        runs = {names[i]: contenders[names[i]]() for i in rng.permutation(len(names))}
        timed = rounds(runs, seconds=seconds / sessions, rng=rng, clock=clock, watch=watch)
        for name, ms in timed.items():
            samples[name].append(np.asarray(ms))
    progress(sessions, sessions)
    return dict(samples)


def timing(ms: Milliseconds) -> Timing:
    """Summarize one contender; with fewer than 6 sessions the median has no 95% interval."""
    medians = [float(np.median(session)) for session in ms]
    low, high = median_interval(medians)
    every = np.concatenate(ms)
    p90, p99 = (float(q) for q in np.percentile(every, [90, 99]))
    spread = tuple(float(q) for q in np.percentile(every, PERCENTILES))
    return Timing(len(every), len(medians), float(np.median(medians)), low, high, p90, p99, spread)


def speedup(reference_ms: Milliseconds, ms: Milliseconds, rng: np.random.Generator) -> Speedup:
    """Median over sessions of the ratio of medians, with its bootstrap interval over sessions.

    For so few sessions a plain percentile interval is too narrow, so it is taken at the expanded
    levels of Hesterberg, "What teachers should know about the bootstrap", 2015, section 5.
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
    watch: Watch | None = None,
) -> Latency:
    """Summarize the samples of `measure` and its `watch`; speed-ups are over `reference`."""
    watch = watch or Watch()
    speedups = {
        name: speedup(samples[reference], ms, rng)
        for name, ms in samples.items()
        if reference is not None and name != reference
    }
    timings = {name: replace(timing(ms), held_up=watch.share(name)) for name, ms in samples.items()}
    return Latency(threads, batch, timings, speedups)


def at_setting(
    openers: Mapping[str, Opener],
    threads: int,
    batch: int,
    *,
    reference: str | None,
    sampling: Sampling,
    progress: Progress = silent,
) -> Latency:
    """Time every contender at one setting and summarize it, as `measure` and `latency` do.

    `progress` receives the setting and (session, sessions).
    """
    rng, watch = np.random.default_rng(sampling.seed), Watch()
    samples = measure(
        {name: partial(opener, threads, batch) for name, opener in openers.items()},
        seconds=sampling.seconds,
        sessions=sampling.sessions,
        rng=rng,
        progress=partial(progress, f"latency, {setting(threads, batch)}"),
        watch=watch,
    )
    return latency(samples, reference=reference, threads=threads, batch=batch, rng=rng, watch=watch)


def busy_notes(measured: Iterable[Latency]) -> list[str]:
    """A sentence for each setting at which the machine was too busy to measure speed."""
    return [
        f"{setting(found.threads, found.batch).capitalize()}: {found.why_too_busy}."
        for found in measured
        if found.too_busy
    ]


def setting(threads: int, batch: int) -> str:
    """A setting in words.

    >>> setting(1, 8)
    '1 thread, batch 8'
    """
    return f"{threads} thread{'s' * (threads != 1)}, batch {batch}"
