"""The difference of two sets of logits, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fggp_deploy.errors import ModelFileError
from fggp_deploy.verification.parity import difference, near
from fggp_deploy.verification.verdict import parity as parity_verdict

pytestmark = pytest.mark.usefixtures("shapes_in_process")


def test_difference_by_hand():
    expected = np.float32([[1, 2], [4, 0]])
    actual = np.float32([[1, 2], [4.5, 0]])
    d = difference(actual, expected, rtol=0.1, atol=0.1)
    assert (d.n, d.bit_equal, d.max_abs, d.max_rel, d.top1_changed) == (2, False, 0.5, 0.125, 0)
    assert d.worst == pytest.approx(0.5 / (0.1 + 0.1 * 4))
    assert parity_verdict("parity", d).passed == (d.worst <= 1)


def test_equal_bits_pass_without_tolerance_and_others_fail():
    y = np.float32([[1, 2]])
    same = difference(y, y.copy(), rtol=0, atol=0)
    assert same.bit_equal
    assert same.passed
    assert same.worst == 0
    other = difference(np.float32([[1, 2.001]]), y, rtol=0, atol=0)
    assert not other.passed
    assert np.isfinite(other.worst)


def test_ulps_are_counted_across_zero():
    one = np.float32(1)
    above = np.nextafter(one, np.float32(2))
    tiny = np.nextafter(np.float32(0), one)
    assert near(np.float32([[above]]), np.float32([[one]])).max_ulp == 1
    assert near(np.float32([[-tiny]]), np.float32([[tiny]])).max_ulp == 2
    assert near(np.float32([[-0.0]]), np.float32([[0.0]])).max_ulp == 0
    assert near(np.float32([[2]]), np.float32([[1]])).max_ulp == 2**23


def test_top1_changes_are_counted():
    d = near(np.float32([[1, 2], [1, 0]]), np.float32([[2, 1], [1, 0]]))
    assert d.top1_changed == 1
    assert not parity_verdict("self-test", d).passed


@pytest.mark.parametrize("bad", [np.float32([[1, 2, 3]]), np.float32([[np.nan, 1]])])
def test_incomparable_logits(bad):
    with pytest.raises(ModelFileError):
        near(bad, np.float32([[1, 2]]))
