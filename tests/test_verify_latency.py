"""Latency with a fake clock: nothing here can fail because the machine was busy."""

from __future__ import annotations

import numpy as np
import pytest

from fggp_deploy.errors import ConfigError
from fggp_deploy.verify.latency import MAX_ROUNDS, latency, measure, speedup, timing
from fggp_deploy.verify.markdown import speedup_in_words


class Clock:
    """Time that passes only while a contender runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contender(self, name: str, ms: float, *, jitter: float = 0.0, seed: int = 0):
        rng = np.random.default_rng(seed)

        def run() -> None:
            self.runs.append(name)
            self.now += ms * (1 + jitter * rng.random()) / 1000

        return run


def measured(clock: Clock, contenders: dict, seconds: float = 0.1, seed: int = 0):
    rng = np.random.default_rng(seed)
    return measure(contenders, seconds=seconds, rng=rng, clock=clock)


def test_rounds_are_paired_warm_and_shuffled():
    clock = Clock()
    samples = measured(clock, {"a": clock.contender("a", 1), "b": clock.contender("b", 3)})
    assert {name: len(ms) for name, ms in samples.items()} == {"a": 30, "b": 30}
    assert clock.runs[:10] == ["a", "b"] * 5  # the warm-up
    turns = ["".join(clock.runs[i : i + 4]) for i in range(10, len(clock.runs), 4)]
    assert set(turns) == {"aabb", "bbaa"}
    np.testing.assert_allclose(samples["a"], 1)
    np.testing.assert_allclose(samples["b"], 3)


def test_time_budget_minimum_and_maximum():
    clock = Clock()
    assert len(measured(clock, {"a": clock.contender("a", 5)}, seconds=1)["a"]) == 100
    frozen = Clock()
    assert len(measured(frozen, {"a": frozen.contender("a", 0)}, seconds=1)["a"]) == MAX_ROUNDS


def test_the_same_seed_gives_the_same_order():
    clocks = [Clock(), Clock()]
    for clock in clocks:
        measured(clock, {n: clock.contender(n, 1) for n in "abc"}, seed=3)
    assert clocks[0].runs == clocks[1].runs


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_seconds_out_of_domain(seconds):
    with pytest.raises(ConfigError, match="seconds"):
        measured(Clock(), {}, seconds=seconds)


def test_timing_by_hand():
    found = timing(np.random.default_rng(0).permutation(np.arange(1.0, 101.0)))
    assert (found.n, found.median_ms) == (100, 50.5)
    # ranks 40 and 61: P(Binomial(100, 1/2) <= 39) = 0.0176, and <= 40 would be 0.0284 > 0.025
    assert (found.median_low_ms, found.median_high_ms) == (40, 61)
    assert found.p90_ms == pytest.approx(90.1)
    assert found.p99_ms == pytest.approx(99.01)


def test_speedup_of_constant_times_is_exact():
    found = speedup(np.full(30, 3.0), np.full(30, 2.0), np.random.default_rng(0))
    assert (found.n, found.value, found.low, found.high) == (30, 1.5, 1.5, 1.5)
    assert found.measured


def test_bootstrap_against_scipy():
    from scipy import stats

    rng = np.random.default_rng(1)
    reference, own = rng.gamma(9, 0.2, 80), rng.gamma(9, 0.15, 80)

    def ratio(a, b, axis):
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    expected = stats.bootstrap(
        (reference, own), ratio, paired=True, n_resamples=20_000, method="percentile"
    ).confidence_interval
    found = speedup(reference, own, np.random.default_rng(2))
    assert found.low == pytest.approx(expected.low, rel=0.03)
    assert found.high == pytest.approx(expected.high, rel=0.03)


def test_a_against_a_says_no_difference():
    said = 0
    for seed in range(40):
        clock = Clock()
        contenders = {
            "model": clock.contender("model", 2, jitter=0.3, seed=2 * seed),
            "reference": clock.contender("reference", 2, jitter=0.3, seed=2 * seed + 1),
        }
        samples = measured(clock, contenders)
        found = latency(
            samples, reference="reference", threads=1, batch=1, rng=np.random.default_rng(seed)
        ).speedups["model"]
        said += found.measured
        assert ("no difference measured" in speedup_in_words(found)) != found.measured
    assert said <= 4  # of 40; 2 are expected at 95%, and the seeds are fixed


def test_more_contenders_and_no_reference():
    samples = {name: np.full(30, ms) for name, ms in {"a": 1.0, "b": 2.0, "c": 4.0}.items()}
    rng = np.random.default_rng(0)
    found = latency(samples, reference="c", threads=2, batch=8, rng=rng)
    assert {name: s.value for name, s in found.speedups.items()} == {"a": 4, "b": 2}
    assert (found.threads, found.batch, list(found.timings)) == (2, 8, ["a", "b", "c"])
    assert latency(samples, reference=None, threads=1, batch=1, rng=rng).speedups == {}


def test_words_for_slower_and_faster():
    rng = np.random.default_rng(0)
    two, one = np.full(30, 2.0), np.full(30, 1.0)
    assert speedup_in_words(speedup(two, one, rng)).startswith("2.00× as fast as the reference")
    assert speedup_in_words(speedup(one, two, rng)).startswith("slower than the reference, 0.50×")
