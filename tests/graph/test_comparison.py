"""The rule by which the outputs of two runs of one network agree."""

from __future__ import annotations

import numpy as np
import pytest

from fggp_deploy.graph.comparison import (
    ATOL,
    BYTES_RTOL,
    RTOL,
    Parity,
    differences,
    parity_of,
    relative_error,
    rtol_for,
    tolerance_ratios,
)

NAN, INF = np.nan, np.inf


def test_the_error_is_relative_to_the_largest_value_of_its_output() -> None:
    want = [np.array([1.0, -4.0]), np.zeros(2)]
    assert relative_error([np.array([1.0, -3.0]), np.zeros(2)], want) == 0.25
    assert relative_error([want[0], np.array([0.0, 0.5])], want) == 0.5
    assert np.isnan(relative_error([np.array([NAN, -4.0]), np.zeros(2)], want))
    assert np.isnan(relative_error([np.zeros(3), np.zeros(2)], want))
    labels = [np.array([3, 1]), np.array([True, False]), np.array([{0: 0.5}], object)]
    assert relative_error(labels, labels) == 0
    assert relative_error([labels[0], ~labels[1], labels[2]], labels) == 1


@pytest.mark.parametrize(
    ("got", "error"),
    [
        ([NAN, INF, -INF, 4.0], 0.0),
        ([NAN, INF, -INF, 3.0], 0.25),  # of the largest finite value
        ([1.0, INF, -INF, 4.0], NAN),
        ([NAN, 9.0, -INF, 4.0], INF),
        ([NAN, INF, INF, 4.0], INF),
    ],
)
def test_nan_and_infinity_agree_with_themselves_only(got: list[float], error: float) -> None:
    want = np.float32([NAN, INF, -INF, 4.0])
    found = parity_of([np.float32(got)], [want])
    np.testing.assert_equal(found.error, error)
    assert found.passed == (error == 0)


def test_each_element_against_its_own_tolerance() -> None:
    want = np.float32([4, 0, 0, -2, NAN, 1])
    got = np.float32([4.5, 0, 0.2, -2, NAN, NAN])
    np.testing.assert_allclose(differences(got, want), [0.5, 0, 0.2, 0, 0, NAN])
    found = tolerance_ratios(got, want, rtol=0.1, atol=0.1)
    np.testing.assert_allclose(found, [1, 0, 2, 0, 0, NAN], rtol=1e-6)
    found = tolerance_ratios(got, want, rtol=0, atol=0)
    np.testing.assert_equal(found, [INF, 0, INF, 0, 0, NAN])


def test_no_more_is_demanded_than_stock_keeps_itself() -> None:
    """An output that rounding decides may differ by four times what stock differs from itself."""
    want, unoptimized = [np.float32([8, 4])], [np.float32([8, 3])]  # stock's own error is 1/8
    calls = []

    def stock() -> list[np.ndarray]:
        calls.append(1)
        return unoptimized

    assert parity_of([np.float32([8, 4])], want, unoptimized=stock).passed
    assert not calls  # equal outputs need no second run
    assert not parity_of([np.float32([8, 5])], want).passed
    found = parity_of([np.float32([8, 5])], want, unoptimized=stock)
    assert found == Parity(1 / 8, pytest.approx(0.5 + RTOL + ATOL / 8))
    assert parity_of([np.float32([12, 4])], want, unoptimized=stock).passed
    assert not parity_of([np.float32([12.1, 4])], want, unoptimized=stock).passed


def test_values_near_zero_may_differ_by_some_roundings_of_one() -> None:
    want = [np.float32([4e-7])]
    assert parity_of([np.float32([1e-6])], want).passed
    assert not parity_of([np.float32([2e-6])], want).passed
    assert parity_of([np.float32([1e-6])], [np.float32([0])]).passed


def test_each_output_has_its_own_limit() -> None:
    want = [np.float32([1]), np.float32([1])]
    noisy = [np.float32([1.1]), np.float32([1])]
    assert parity_of([np.float32([1.3]), want[1]], want, unoptimized=lambda: noisy).passed
    found = parity_of([np.float32([1.3]), np.float32([1.01])], want, unoptimized=lambda: noisy)
    assert not found.passed
    assert found.error == pytest.approx(0.01, rel=1e-4)


def test_a_shape_that_stock_does_not_keep_is_not_demanded() -> None:
    want = [np.zeros((3, 4), np.float32)]
    got, other = [np.zeros((2, 4), np.float32)], [np.zeros((5, 4), np.float32)]
    assert not parity_of(got, want).passed
    assert not parity_of(got, want, unoptimized=lambda: want).passed
    assert parity_of(want, want, unoptimized=lambda: other).passed


@pytest.mark.parametrize(("n_flipped", "passed"), [(1, True), (2, False)])
def test_few_classes_of_a_map_may_flip(n_flipped: int, passed: bool) -> None:
    want = np.zeros(100, np.int64)
    got = want.copy()
    got[:n_flipped] = 7
    assert parity_of([got], [want]).passed == passed
    assert not parity_of([got[:1]], [want[:1]]).passed  # the only class is another one


def test_limits_by_type() -> None:
    assert (rtol_for(in_bytes=False), rtol_for(in_bytes=True)) == (RTOL, BYTES_RTOL)
    want = np.float16([1])
    assert parity_of([want + np.float16(0.003)], [want]).passed  # three roundings of float16
    assert not parity_of([want + np.float16(0.006)], [want]).passed
    assert parity_of([np.float32([1.05])], [np.float32([1])], rtol=BYTES_RTOL).passed
