"""Accuracy and its statistics, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fggp_deploy.data.types import Preprocessing, Split
from fggp_deploy.errors import DataError
from fggp_deploy.measure import evaluate, statistics


class Recorder:
    """Stands for a Network: records batches; the mean pixel is the logit of class 1 of 2."""

    name = "fake"

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def logits(self, x):
        self.batches.append(x.shape)
        return np.stack([np.zeros(len(x)), x.mean((1, 2, 3))], axis=1).astype(np.float32)


def split(n: int, side: int = 4, channels: int = 1) -> Split:
    images = np.arange(n, dtype=np.uint8)[:, None, None, None]
    return Split(
        np.broadcast_to(images, (n, side, side, channels)).copy(), np.zeros(n, dtype=np.int64)
    )


def test_logits_batches_progress_and_order():
    network, seen = Recorder(), []
    pre = Preprocessing(4, 4, (0.0,), (1.0,))
    y = evaluate.logits(network, split(250), pre, lambda done, total: seen.append((done, total)))
    assert network.batches == [(250, 1, 4, 4)]
    assert seen == [(250, 250)]
    np.testing.assert_allclose(y[:, 1], np.arange(250) / 255, rtol=1e-5)


def test_large_images_are_prepared_a_few_at_a_time():
    network = Recorder()
    pre = Preprocessing(224, 224, (0.0,) * 3, (1.0,) * 3)
    evaluate.logits(network, split(60, 224, 3), pre)
    assert [b[0] for b in network.batches] == [27, 27, 6]  # 16 MiB / (4 · 3 · 224²) = 27.9


def test_empty_split_is_refused():
    with pytest.raises(DataError, match="no images"):
        evaluate.logits(Recorder(), split(0), Preprocessing(4, 4, (0.0,), (1.0,)))


def test_hits_rank_and_ties_by_index():
    y = np.float32([[3, 2, 1], [1, 1, 1], [1, 1, 1]])
    labels = np.array([1, 0, 2])
    assert evaluate.hits(y, labels, 1).tolist() == [False, True, False]
    assert evaluate.hits(y, labels, 2).tolist() == [True, True, False]


def test_top5_only_beyond_five_classes():
    labels = np.zeros(2, np.int64)
    five, six = np.float32([[5, 4, 3, 2, 1]] * 2), np.float32([[1, 2, 3, 4, 5, 0], [0] + [1] * 5])
    assert evaluate.scores(five, labels).top5 is None
    top5 = evaluate.scores(six, labels).top5
    assert top5 is not None
    assert (top5.k, top5.n) == (1, 2)


def test_wilson_by_its_formula():
    p, n, z = 0.91, 100, 1.959963984540054
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = statistics.proportion(91, 100)
    assert (found.low, found.high) == pytest.approx((center - half, center + half), abs=1e-12)
    assert statistics.proportion(0, 10).low == 0
    assert statistics.proportion(10, 10).high == 1


def test_mcnemar_by_hand():
    assert statistics.mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 64)
    assert statistics.mcnemar(1, 5) == statistics.mcnemar(5, 1)
    assert statistics.mcnemar(3, 3) == 1
    assert statistics.mcnemar(0, 0) == 1


def test_difference_interval_by_hand():
    low, high = statistics.difference_interval(3, 1, 98)  # cells 3.5 and 1.5 of 100
    half = 1.959963984540054 * math.sqrt(5 - 4 / 100) / 100
    assert (low, high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-12)
    low, high = statistics.difference_interval(0, 0, 98)
    assert -low == high == pytest.approx(1.959963984540054 / 100)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200))
def test_difference_interval_holds_the_estimate_and_mirrors(lost, gained, agreed):
    n = lost + gained + agreed + 1
    low, high = statistics.difference_interval(lost, gained, n)
    assert -1 <= low <= (lost - gained) / n <= high <= 1
    assert statistics.difference_interval(gained, lost, n) == pytest.approx((-high, -low))


def test_difference_interval_covers():
    lost, gained, n = 0.03, 0.01, 500
    table = stats.multinomial(n, [lost, gained, 1 - lost - gained], seed=0).rvs(2000)
    intervals = [statistics.difference_interval(int(b), int(c), n) for b, c, _ in table]
    covered = np.mean([low <= lost - gained <= high for low, high in intervals])
    assert 0.935 <= covered <= 0.975


def test_paired_counts():
    #            both right, lost,   gained, both wrong alike
    y = np.float32([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    r = np.float32([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    found = evaluate.paired(y, r, np.zeros(4, np.int64))
    assert (found.n, found.lost, found.gained, found.drop_points) == (4, 1, 1, 0)
    assert (found.agreement.k, found.p_value) == (2, 1)


def test_drop_is_in_percentage_points():
    labels = np.zeros(50, np.int64)
    r = np.tile(np.float32([1, 0]), (50, 1))
    y = r.copy()
    y[0] = [0, 1]
    found = evaluate.paired(y, r, labels)
    assert found.drop_points == pytest.approx(2.0)
    assert found.drop_low < 2 < found.drop_high
