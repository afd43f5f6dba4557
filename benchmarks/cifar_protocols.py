"""CIFAR-10 with the splits of papers on pruning, for `--data benchmarks/cifar_protocols.py:NAME`.

The folder that holds `cifar-10-batches-py` is $FGGP_DATA_DIR; If $FGGP_PAPER_IMAGES is
set, only that many training and test images are used.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from fggp_deploy.data import cifar
from fggp_deploy.data.types import Dataset, Split


def last_epoch() -> Dataset:
    """All 50,000 training images. `val` has 1,000 of them and says nothing about other images."""
    data = _cifar10()
    assert isinstance(data.train, Split)
    assert isinstance(data.val, Split)
    everything = Split(
        np.concatenate([data.train.images, data.val.images]),
        np.concatenate([data.train.labels, data.val.labels]),
    )
    return replace(data, name="cifar10, 50,000 training images", train=_some(everything))


def best_epoch() -> Dataset:
    """The first 45,000 training images. `val` is the test set, which selects the best epoch."""
    data = _cifar10()
    assert isinstance(data.train, Split)
    assert isinstance(data.test, Split)
    train = Split(data.train.images[:45_000], data.train.labels[:45_000])
    return replace(data, name="cifar10, 45,000 training images", train=_some(train), val=data.test)


def _cifar10() -> Dataset:
    folder = os.environ.get("FGGP_DATA_DIR")
    data = cifar.load(Path(folder) if folder else None)
    assert isinstance(data.test, Split)
    return replace(data, test=_some(data.test))


def _some(split: Split) -> Split:
    n = int(os.environ.get("FGGP_PAPER_IMAGES", "0"))
    return split.sample(n) if n else split
