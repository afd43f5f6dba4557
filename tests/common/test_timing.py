"""The order statistics behind every interval of a median."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fggp_deploy.common import timing
from fggp_deploy.common.timing import Watch, median_interval, rounds, waited_seconds


@pytest.mark.parametrize(
    ("n", "low", "high"),
    [
        (6, 0, 5),  # P(Binomial(6, 1/2) = 0) = 1/64
        (8, 0, 7),  # P(Binomial(8, 1/2) <= 1) = 9/256 = 0.035, too much
        (9, 1, 7),  # P(Binomial(9, 1/2) <= 1) = 10/512 = 0.0195
        (25, 7, 17),  # the ranks 8 and 18 of the tables
    ],
)
def test_interval_of_the_median(n: int, low: int, high: int) -> None:
    assert median_interval([float(x) for x in reversed(range(n))]) == (low, high)


def test_fewer_than_six_have_none() -> None:
    assert all(map(math.isnan, median_interval([1.0] * 5)))


class Core:
    """A core whose clock runs while a network does; other programs take `stolen` of each second."""

    def __init__(self, stolen: float) -> None:
        self.now = self.waited = 0.0
        self.stolen = stolen

    def network(self, ms: float):
        def run() -> None:
            took = ms / 1000 / (1 - self.stolen)
            self.now += took
            self.waited += self.stolen * took

        return run

    def time(self) -> Watch:
        watch, runs = (
            Watch(lambda: self.waited),
            {"dense": self.network(8), "sparse": self.network(2)},
        )
        rng = np.random.default_rng(0)
        rounds(runs, seconds=0.1, rng=rng, clock=lambda: self.now, watch=watch)
        return watch


@pytest.mark.parametrize(("stolen", "busy"), [(0.0, False), (0.05, False), (0.5, True)])
def test_a_busy_machine_is_noticed(stolen: float, busy: bool) -> None:
    watch = Core(stolen).time()
    assert watch.too_busy is busy
    assert watch.share("dense") == watch.share("sparse") == float(busy)


def test_a_few_runs_held_up_leave_the_median_alone() -> None:
    watch = Watch()
    for i in range(100):
        watch.record("it", waited=0.02 if i < 25 else 0.0, took=0.03)
    assert watch.share("it") == 0.25
    assert not watch.too_busy
    watch.record("it", waited=0.02, took=0.03)
    assert watch.too_busy


def test_waking_a_thread_is_no_hold_up() -> None:
    watch = Watch()
    watch.record("it", waited=5e-5, took=1e-4)
    assert watch.share("it") == 0
    assert watch.share("nothing") == 0


def test_linux_counts_the_wait_of_every_thread(tmp_path, monkeypatch) -> None:
    for thread, waited_ns in (("11", 1_500_000_000), ("12", 500_000_000)):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(f"746133 {waited_ns} 2\n")
    monkeypatch.setattr(timing, "_TASKS", tmp_path)
    assert waited_seconds() == 2.0


def test_elsewhere_cpu_time_is_held_against_wall_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(timing, "_TASKS", tmp_path / "not there")
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 10.0)
    monkeypatch.setattr(timing.time, "process_time", lambda: 4.0)
    assert waited_seconds() == 6.0
