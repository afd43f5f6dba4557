"""Some of many images: every class gets its share, and the seed decides."""

from __future__ import annotations

import numpy as np
import pytest

from fggp_deploy.data.sampling import sample


@pytest.mark.parametrize("labels", [np.repeat(np.arange(4), 100), np.tile(np.arange(4), 100)])
def test_each_class_gets_its_share_in_any_order(labels):
    rows = sample(labels, 40)
    assert np.bincount(labels[rows]).tolist() == [10, 10, 10, 10]
    assert (np.diff(rows) > 0).all()


def test_shares_follow_the_classes_sizes():
    labels = np.repeat([0, 1], [90, 10])
    assert np.bincount(labels[sample(labels, 20)]).tolist() == [18, 2]


def test_the_seed_decides_and_repeats():
    labels = np.repeat([0, 1], 50)
    assert sample(labels, 10, seed=1).tolist() == sample(labels, 10, seed=1).tolist()
    assert sample(labels, 10, seed=1).tolist() != sample(labels, 10, seed=2).tolist()


@pytest.mark.parametrize("n", [3, 4, 100])
def test_no_more_than_there_are(n):
    labels = np.array([1, 0, 1])
    assert sample(labels, n).tolist() == [0, 1, 2]
    assert sample(labels[:0], n).tolist() == []
