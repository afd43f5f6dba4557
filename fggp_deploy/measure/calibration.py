"""Expected calibration error: how far a network's confidence is from its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from fggp_deploy.data.types import Labels

N_BINS = 15
N_RESAMPLES = 500


@dataclass(frozen=True)
class Bin:
    """The `n` images whose confidence lies in (low, high]: its mean, and their accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error of `n` predictions and its reliability diagram.

    Guo et al., "On calibration of modern neural networks", 2017: confidence is the largest
    softmax probability, in 15 bins of equal width; `ece` = Σ n_bin / n · |accuracy − confidence|,
    in [0, 1]. [low, high] is the middle 95% of 500 bootstrap resamples of the images; like ECE
    itself it is biased upwards. `bins` has no empty bins.
    """

    n: int
    ece: float
    low: float
    high: float
    bins: tuple[Bin, ...]


def calibration(y: npt.NDArray[np.float32], labels: Labels) -> Calibration:
    """The calibration of logits y [N, classes] against labels [N]; N must be at least 1."""
    confidence = special.softmax(y.astype(np.float64), axis=1).max(axis=1)
    right = (y.argmax(axis=1) == labels).astype(np.float64)
    where = np.clip(np.ceil(confidence * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)
    n = len(labels)
    rng = np.random.default_rng(0)
    resampled = [
        _ece(where, right - confidence, rng.integers(n, size=n)) for _ in range(N_RESAMPLES)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5])
    bins = tuple(
        Bin(
            b / N_BINS,
            (b + 1) / N_BINS,
            int(own.sum()),
            float(confidence[own].mean()),
            float(right[own].mean()),
        )
        for b in range(N_BINS)
        if (own := where == b).any()
    )
    ece = _ece(where, right - confidence, np.arange(n))
    return Calibration(n, ece, float(low), float(high), bins)


def _ece(
    where: npt.NDArray[np.int64], gap: npt.NDArray[np.float64], drawn: npt.NDArray[np.int64]
) -> float:
    """Σ over bins of |Σ of the gaps of the images drawn| / their number."""
    sums = np.bincount(where[drawn], weights=gap[drawn], minlength=N_BINS)
    return float(np.abs(sums).sum() / len(drawn))
