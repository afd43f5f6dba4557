"""Sampling images over all classes, by seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def sample(labels: Rows, n: int, *, seed: int = 0) -> Rows:
    """Rows of n of the images that have these labels, or of all if there are fewer; ascending.

    Each class gets its share, and `seed` decides which of its images are taken. The first n images
    would not do: files of one class often lie together.

    >>> sample(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 2).tolist()
    [2, 4]
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    spread = np.linspace(0, len(labels), min(n, len(labels)), endpoint=False).astype(np.int64)
    return np.sort(by_class[spread])
