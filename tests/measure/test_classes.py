"""Intervals, per-class tests and calibration, against scipy and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fggp_deploy.measure.calibration import calibration
from fggp_deploy.measure.classes import by_class, lost_most
from fggp_deploy.measure.statistics import bootstrap_difference, holm


def test_holm_by_hand():
    # sorted 0.01 0.02 0.04: times 3, 2, 1 = 0.03 0.04 0.04
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.02, 0.02, 0.9]) == pytest.approx([0.06, 0.06, 0.9])  # never decreasing
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_the_raw_and_bonferroni(p):
    adjusted = holm(p)
    assert all(a >= raw for a, raw in zip(adjusted, p, strict=True))
    assert all(a <= min(1, len(p) * raw) + 1e-12 or a == max(adjusted) for a, raw in
               zip(adjusted, p, strict=True))  # fmt: skip
    assert adjusted[int(np.argmin(p))] == pytest.approx(min(1, len(p) * min(p)))


def test_bootstrap_is_that_of_scipy_on_the_images():
    lost, gained, n = 60, 24, 1000
    each = np.repeat([1, -1, 0], [lost, gained, n - lost - gained])
    scipys = stats.bootstrap(
        (each,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1)
    ).confidence_interval
    found = bootstrap_difference(lost, gained, n)
    assert found == pytest.approx((scipys.low, scipys.high), abs=0.0015)
    assert bootstrap_difference(lost, gained, n) == found  # the same counts, the same interval
    assert bootstrap_difference(0, 0, 10) == (0, 0)


def test_by_class_counts_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    reference = np.array([1, 1, 0, 1, 1, 0], bool)
    right = np.array([0, 1, 1, 0, 0, 0], bool)
    a, b, c = by_class(right, reference, labels, ["a", "b", "c", "absent"])
    assert (a.lost, a.gained, a.drop_points, a.p_value) == (1, 1, 0, 1)
    assert (b.lost, b.gained, b.drop_points, b.p_value) == (2, 0, 100, 0.5)
    assert (c.name, c.model.n, c.reference.k) == ("c", 1, 0)
    assert b.p_holm == 1  # 3 · 0.5, at most 1
    assert b.drop_low < 100 <= b.drop_high


def test_only_what_survives_holm_is_named():
    n = 40
    labels = np.repeat(np.arange(10), n)
    reference = np.ones(10 * n, bool)
    right = reference.copy()
    right[:20] = False  # class 0: p = 2 · 2^-20
    right[n : n + 7] = False  # class 1: p = 2 · 2^-7 = 0.0156 alone, not among ten
    changes = by_class(right, reference, labels, [f"c{i}" for i in range(10)])
    assert changes[1].p_value == pytest.approx(2 / 2**7)
    assert changes[1].p_holm == pytest.approx(9 * 2 / 2**7)
    assert [c.name for c in lost_most(changes)] == ["c0"]


def test_ece_by_hand():
    def of(p: float) -> list[float]:  # two classes, the first with probability p
        return [math.log(p / (1 - p)), 0.0]

    # bins of width 1/15: 0.62 lies in (9/15, 10/15], 0.95 in (14/15, 1]
    y = np.float32([of(0.62), of(0.62), of(0.95), of(0.95)])
    found = calibration(y, np.array([0, 1, 0, 0]))
    assert found.ece == pytest.approx(0.5 * abs(0.5 - 0.62) + 0.5 * abs(1 - 0.95), abs=1e-6)
    assert [(b.n, round(b.accuracy, 3)) for b in found.bins] == [(2, 0.5), (2, 1.0)]
    assert [(round(15 * b.low), round(15 * b.high)) for b in found.bins] == [(9, 10), (14, 15)]
    assert found.low <= found.high


def test_certain_and_right_is_calibrated():
    y = np.float32([[100, 0], [0, 100]])
    assert calibration(y, np.array([0, 1])).ece == pytest.approx(0, abs=1e-9)
    assert calibration(y, np.array([1, 0])).ece == pytest.approx(1)
