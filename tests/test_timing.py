"""The order statistics behind every interval of a median."""

from __future__ import annotations

import math

import pytest

from fggp_deploy.timing import median_interval


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
