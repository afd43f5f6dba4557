"""Gates: the point estimate decides, --strict the bad end of the interval."""

from __future__ import annotations

import dataclasses

import pytest

from fggp_deploy.errors import ConfigError
from fggp_deploy.measure.evaluate import Paired
from fggp_deploy.measure.latency import Speedup, Timing
from fggp_deploy.measure.robustness import Robustness
from fggp_deploy.measure.statistics import Proportion
from fggp_deploy.verification.gates import Figures, Gates, verdicts

PAIRED = Paired(
    1000, Proportion(950, 1000, 0.95, 0.93, 0.96), 20, 10, 0.1, 1.0, -0.1, 2.1, -0.1, 2.2
)
SPEEDUP = Speedup(n=100, sessions=10, value=2.0, low=1.8, high=2.2)
TIMING = Timing(100, 10, 5.0, 4.5, 5.5, 6.0, 7.0, ())
SHARE = Proportion(10, 100, 0.1, 0.05, 0.17)
DISTURBED = Robustness("quick", 100, SHARE, SHARE, (), (), (), 3.0, 2.5, 3.5, ())


def passed(**limits):
    found = verdicts(Gates(**limits), Figures([PAIRED], SPEEDUP, TIMING, 1000, DISTURBED))
    return {v.name: v.passed for v in found}


@pytest.mark.parametrize(
    ("name", "at", "beyond", "strict_at", "strict_beyond"),
    [
        ("max_drop_points", 1.0, 0.9, 2.1, 2.0),
        ("min_speedup", 2.0, 2.1, 1.8, 1.9),
        ("max_bytes", 1000, 999, 1000, 999),
        ("max_latency_ms", 5.0, 4.9, 5.5, 5.4),
        ("max_excess_points", 3.0, 2.9, 3.5, 3.4),
        ("min_agreement", 0.95, 0.951, 0.93, 0.931),
    ],
)
def test_limits_are_inclusive(name, at, beyond, strict_at, strict_beyond):
    assert passed(**{name: at}) == {name: True}
    assert passed(**{name: beyond}) == {name: False}
    assert passed(**{name: strict_at}, strict=True) == {name: True}
    assert passed(**{name: strict_beyond}, strict=True) == {name: False}


def test_a_verdict_says_how():
    figures = Figures([], SPEEDUP, TIMING, file_bytes=1)
    (loose,) = verdicts(Gates(min_speedup=1.9), figures)
    (strict,) = verdicts(Gates(min_speedup=1.9, strict=True), figures)
    assert (loose.value, loose.limit, loose.passed) == (2.0, 1.9, True)
    assert loose.how == "point estimate of the ratio of medians"
    assert (strict.value, strict.passed) == (1.8, False)
    assert strict.how == "lower end of the 95% interval of the ratio of medians"


def test_no_gate_on_speed_passes_on_a_busy_machine():
    limits = Gates(min_speedup=1.1, max_latency_ms=9.0, max_bytes=10)
    figures = Figures([], SPEEDUP, TIMING, file_bytes=1)
    assert all(v.passed for v in verdicts(limits, figures))
    busy = dataclasses.replace(figures, too_busy="the machine was too busy")
    found = verdicts(limits, busy)
    assert {v.name: (v.passed, v.how) for v in found} == {
        "min_speedup": (False, "the machine was too busy"),
        "max_latency_ms": (False, "the machine was too busy"),
        "max_bytes": (True, "size of the file"),
    }


def test_the_worst_way_to_run_a_file_is_judged():
    share = Proportion(940, 1000, 0.94, 0.92, 0.95)
    worse = dataclasses.replace(PAIRED, drop_points=1.4, agreement=share)
    for paired in ([PAIRED, worse], [worse, PAIRED]):
        drop, agreement = verdicts(
            Gates(max_drop_points=1.0, min_agreement=0.94),
            Figures(paired, speedup=None, timing=TIMING, file_bytes=1),
        )
        assert (drop.value, drop.passed) == (1.4, False)
        assert (agreement.value, agreement.passed) == (0.94, True)


def test_no_limits_no_verdicts():
    assert passed() == {}


@pytest.mark.parametrize(
    ("limits", "data", "dense_model", "match"),
    [
        ({"max_drop_points": 1}, False, True, "--data"),
        ({"max_drop_points": 1}, True, False, "--reference"),
        ({"min_speedup": 1}, True, False, "--reference"),
        ({"min_agreement": 0.9}, False, True, "--data"),
        ({"min_agreement": 0.9}, True, False, "--reference"),
        ({"max_excess_points": 1}, True, True, "--robustness"),
    ],
)
def test_a_gate_that_cannot_be_judged_names_the_cure(limits, data, dense_model, match):
    with pytest.raises(ConfigError, match=match):
        Gates(**limits).require(data=data, dense_model=dense_model)
    with pytest.raises(ConfigError):
        verdicts(Gates(**limits), Figures([], speedup=None, timing=TIMING, file_bytes=1))


@pytest.mark.parametrize(
    "limits",
    [
        {"max_drop_points": float("nan")},
        {"max_drop_points": 101},
        {"min_speedup": 0},
        {"min_speedup": float("inf")},
        {"max_bytes": -1},
        {"max_latency_ms": float("nan")},
        {"max_excess_points": -101},
        {"min_agreement": 1.1},
    ],
)
def test_limits_out_of_domain(limits):
    with pytest.raises(ConfigError):
        Gates(**limits)
