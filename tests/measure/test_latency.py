"""Latency with a fake clock: nothing here can fail because the machine was busy."""

from __future__ import annotations

import numpy as np
import pytest

from fggp_deploy.common.timing import Watch
from fggp_deploy.errors import ConfigError
from fggp_deploy.measure.latency import (
    MIN_SESSIONS,
    N_SESSIONS,
    busy_notes,
    latency,
    measure,
    speedup,
    timing,
)
from fggp_deploy.report.words import speedup as speedup_in_words


class Clock:
    """Time that passes only while a contender runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contender(self, name: str, ms: float, *, spread: float = 0.0, seed: int = 0):
        """Rounds vary by `spread`, and so do sessions, as they do in truth."""
        rng = np.random.default_rng(seed)

        def open_session():
            self.log.append(name.upper())
            own_ms = ms * (1 + spread * rng.random())

            def run() -> None:
                self.log.append(name)
                self.now += own_ms * (1 + spread * rng.random()) / 1000

            return run

        return open_session


def measured(clock: Clock, contenders: dict, seconds: float = 0.01, seed: int = 0):
    rng = np.random.default_rng(seed)
    return measure(contenders, seconds=seconds, rng=rng, clock=clock)


def test_sessions_are_fresh_and_rounds_paired_warm_and_shuffled():
    clock = Clock()
    samples = measured(clock, {"a": clock.contender("a", 1), "b": clock.contender("b", 3)})
    assert {n: [len(s) for s in ms] for n, ms in samples.items()} == {"a": [3] * 10, "b": [3] * 10}
    length = 2 + 5 * 2 + 3 * 4
    sessions = ["".join(clock.log[i : i + length]) for i in range(0, len(clock.log), length)]
    assert len(sessions) == N_SESSIONS
    assert {s[:2] for s in sessions} == {"AB", "BA"}
    assert {s[2:12] for s in sessions} == {"ab" * 5, "ba" * 5}  # the warm-up
    assert {s[i : i + 4] for s in sessions for i in (12, 16, 20)} == {"aabb", "bbaa"}
    np.testing.assert_allclose(samples["a"], 1)
    np.testing.assert_allclose(samples["b"], 3)


def test_time_budget_minimum_and_maximum():
    clock = Clock()
    samples = measured(clock, {"a": clock.contender("a", 5)}, seconds=0.99)
    assert [len(s) for s in samples["a"]] == [10] * 10  # 99 ms each, two runs of 5 ms a round
    frozen = Clock()
    samples = measured(frozen, {"a": frozen.contender("a", 0)}, seconds=1)
    assert [len(s) for s in samples["a"]] == [1_000] * 10


def test_the_same_seed_gives_the_same_order():
    clocks = [Clock(), Clock()]
    for clock in clocks:
        measured(clock, {n: clock.contender(n, 1) for n in "abc"}, seed=3)
    assert clocks[0].log == clocks[1].log


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_seconds_out_of_domain(seconds):
    with pytest.raises(ConfigError, match="seconds"):
        measured(Clock(), {}, seconds=seconds)


def test_timing_by_hand():
    medians = np.random.default_rng(0).permutation(np.arange(1.0, 11.0))
    found = timing([np.array([m - 0.5, m, m + 0.5]) for m in medians])
    assert (found.n, found.sessions, found.median_ms) == (30, 10, 5.5)
    # ranks 2 and 9: P(Binomial(10, 1/2) <= 1) = 11/1024 = 0.011, and <= 2 would be 0.055 > 0.025
    assert (found.median_low_ms, found.median_high_ms) == (2, 9)
    # of 30 rounds 0.5, 1, 1.5, 1.5, 2, … the 27th and 28th are both 9.5: 9 ± 0.5 and 10 − 0.5
    assert found.p90_ms == pytest.approx(9.5)


def test_speedup_of_constant_times_is_exact():
    found = speedup([np.full(3, 3.0)] * 10, [np.full(3, 2.0)] * 10, np.random.default_rng(0))
    assert (found.n, found.sessions) == (30, 10)
    assert (found.value, found.low, found.high) == (1.5, 1.5, 1.5)
    assert found.measured


def test_bootstrap_against_scipy():
    from scipy import stats

    ratios = np.random.default_rng(1).gamma(9, 0.2, 10)
    tail = stats.norm.cdf(np.sqrt(10 / 9) * stats.t.ppf(0.025, 9))
    expected = stats.bootstrap(
        (ratios,), np.median, n_resamples=50_000, method="percentile", confidence_level=1 - 2 * tail
    ).confidence_interval
    ones = [np.ones(3)] * 10
    found = speedup([np.full(3, r) for r in ratios], ones, np.random.default_rng(2))
    assert found.value == pytest.approx(np.median(ratios))
    assert found.low == pytest.approx(expected.low, rel=0.05)
    assert found.high == pytest.approx(expected.high, rel=0.05)


@pytest.mark.parametrize("sessions", [MIN_SESSIONS, N_SESSIONS])
def test_a_against_a_says_no_difference(sessions):
    said = 0
    for seed in range(100):
        clock = Clock()
        contenders = {
            "model": clock.contender("model", 2, spread=0.3, seed=2 * seed),
            "reference": clock.contender("reference", 2, spread=0.3, seed=2 * seed + 1),
        }
        rng = np.random.default_rng(seed)
        samples = measure(contenders, seconds=0.01, rng=rng, sessions=sessions, clock=clock)
        found = latency(samples, reference="reference", threads=1, batch=1, rng=rng)
        said += found.speedups["model"].measured
        words = speedup_in_words(found.speedups["model"])
        assert ("no difference measured" in words) != found.speedups["model"].measured
    assert said <= 5  # of 100, with fixed seeds


def test_a_difference_larger_than_the_spread_is_measured():
    clock = Clock()
    contenders = {
        "model": clock.contender("model", 1, spread=0.3, seed=1),
        "reference": clock.contender("reference", 1.5, spread=0.3, seed=2),
    }
    samples = measured(clock, contenders)
    rng = np.random.default_rng(0)
    found = latency(samples, reference="reference", threads=1, batch=1, rng=rng).speedups["model"]
    assert found.measured
    assert found.low < 1.5 < found.high


def test_more_contenders_and_no_reference():
    samples = {name: [np.full(3, ms)] * 10 for name, ms in {"a": 1.0, "b": 2.0, "c": 4.0}.items()}
    rng = np.random.default_rng(0)
    found = latency(samples, reference="c", threads=2, batch=8, rng=rng)
    assert {name: s.value for name, s in found.speedups.items()} == {"a": 4, "b": 2}
    assert (found.threads, found.batch, list(found.timings)) == (2, 8, ["a", "b", "c"])
    assert latency(samples, reference=None, threads=1, batch=1, rng=rng).speedups == {}


def test_words_for_slower_and_faster():
    rng = np.random.default_rng(0)
    two, one = [np.full(3, 2.0)] * 10, [np.full(3, 1.0)] * 10
    assert speedup_in_words(speedup(two, one, rng)).startswith("2.00× as fast as the dense")
    assert speedup_in_words(speedup(one, two, rng)).startswith("slower than the dense model, 0.50×")


@pytest.mark.parametrize(("stolen", "says"), [(0.0, ""), (0.5, "in 100% of the rounds")])
def test_rounds_that_are_held_up_are_told(stolen, says):
    clock, waited = Clock(), [0.0]

    def open_session():
        run = clock.contender("a", 4)()

        def held_up() -> None:
            before = clock.now
            run()
            waited[0] += stolen * (clock.now - before)

        return held_up

    watch, rng = Watch(lambda: waited[0]), np.random.default_rng(0)
    samples = measure({"a": open_session}, seconds=0.01, rng=rng, clock=clock, watch=watch)
    found = latency(samples, reference=None, threads=1, batch=1, rng=rng, watch=watch)
    assert found.timings["a"].held_up == 2 * stolen
    assert found.too_busy == bool(says)
    assert says in found.why_too_busy
    notes = busy_notes([found])
    assert len(notes) == bool(says)
    assert all(note.startswith("1 thread, batch 1: the machine was too busy") for note in notes)
