"""Accuracy on a split, and whether the difference to the reference is more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fggp_deploy.data.types import Labels, Part, Preprocessing
from fggp_deploy.errors import DataError
from fggp_deploy.verify.network import Floats, Network

BATCH_BYTES = 16 << 20  # prepared float32 images that are in memory at once
MAX_BATCH = 256


@dataclass(frozen=True)
class Proportion:
    """`k` of `n`: the share `value` and its Wilson 95% interval [low, high], all in [0, 1]."""

    k: int
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Top-1 and, where there are more than five classes, top-5 accuracy of one network."""

    top1: Proportion
    top5: Proportion | None


@dataclass(frozen=True)
class Paired:
    """A network against its reference on the same n images.

    `drop_points` = (lost − gained) / n in percentage points, positive when accuracy fell;
    [drop_low, drop_high] is its 95% interval. `lost` images only the reference gets right,
    `gained` only the network. `p_value` is McNemar's, exact and two-sided.
    """

    n: int
    agreement: Proportion
    lost: int
    gained: int
    p_value: float
    drop_points: float
    drop_low: float
    drop_high: float


@dataclass(frozen=True)
class Accuracy:
    """What the network scores on `n` images of a data set, alone and against the reference."""

    data: str
    split: str
    n: int
    model: Scores
    reference: Scores | None
    paired: Paired | None


def logits(
    network: Network,
    split: Part,
    preprocessing: Preprocessing,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Floats:
    """Run a whole split, preparing only one batch at a time, and return logits [N, classes].

    `progress(done, total)` counts images. Raises DataError for an empty split or another image
    size, ModelFileError for logits that are not finite.
    """
    if not len(split):
        raise DataError("the split has no images; accuracy needs at least one")
    batch = min(MAX_BATCH, max(1, BATCH_BYTES // (4 * math.prod(preprocessing.input_shape))))
    parts = []
    for i in range(0, len(split), batch):
        parts.append(network.logits(preprocessing(split.read(slice(i, i + batch)))))
        progress(min(i + batch, len(split)), len(split))
    return np.concatenate(parts)


def hits(y: Floats, labels: Labels, k: int) -> npt.NDArray[np.bool_]:
    """Whether each label [N] is among the k largest logits of y [N, classes]; ties by index."""
    own = np.take_along_axis(y, labels[:, None], axis=1)
    earlier = np.arange(y.shape[1]) < labels[:, None]
    rank = ((y > own) | ((y == own) & earlier)).sum(axis=1)
    return np.asarray(rank < k)


def proportion(k: int, n: int) -> Proportion:
    """k of n with its Wilson 95% interval; n must be at least 1."""
    interval = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    return Proportion(k, n, k / n, float(interval.low), float(interval.high))


def scores(y: Floats, labels: Labels) -> Scores:
    """Top-1 and top-5 accuracy of logits y [N, classes] against labels [N]."""
    n, classes = y.shape
    top5 = proportion(int(hits(y, labels, 5).sum()), n) if classes > 5 else None
    return Scores(proportion(int(hits(y, labels, 1).sum()), n), top5)


def paired(y: Floats, reference: Floats, labels: Labels) -> Paired:
    """Compare the predictions of two networks [N, classes] on the same labels [N]."""
    right, reference_right = hits(y, labels, 1), hits(reference, labels, 1)
    n = len(labels)
    lost = int((reference_right & ~right).sum())
    gained = int((right & ~reference_right).sum())
    low, high = difference_interval(lost, gained, n)
    return Paired(
        n=n,
        agreement=proportion(int((y.argmax(1) == reference.argmax(1)).sum()), n),
        lost=lost,
        gained=gained,
        p_value=mcnemar(lost, gained),
        drop_points=100 * (lost - gained) / n,
        drop_low=100 * low,
        drop_high=100 * high,
    )


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p of McNemar's test: a fair coin on the discordant pairs; 1 without any."""
    if lost + gained == 0:
        return 1.0
    return float(stats.binomtest(lost, lost + gained, 0.5).pvalue)


def difference_interval(lost: int, gained: int, n: int) -> tuple[float, float]:
    """95% interval of (lost − gained) / n for paired proportions, in [−1, 1].

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
    2005: Wald's interval after adding one half to each cell of the 2×2 table. Unlike Wald's it
    has a width when no pair is discordant.
    """
    b, c, m = lost + 0.5, gained + 0.5, n + 2
    centre = (b - c) / m
    half = float(stats.norm.ppf(0.975)) * math.sqrt(b + c - (b - c) ** 2 / m) / m
    return max(-1.0, centre - half), min(1.0, centre + half)
