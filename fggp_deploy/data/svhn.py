"""SVHN, cropped digits (Netzer et al. 2011), from the two .mat files that torchvision fetches."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from fggp_deploy.data.download import Download, located
from fggp_deploy.data.mat5 import read_arrays
from fggp_deploy.data.types import Dataset, Preprocessing, Split
from fggp_deploy.errors import DataError

PREPROCESSING = Preprocessing(
    height=32, width=32, mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970)
)
DOWNLOAD = Download(
    "svhn", "SVHN", "train_32x32.mat and test_32x32.mat",
    "http://ufldl.stanford.edu/housenumbers", 246,
)  # fmt: skip
N_VAL = 1_000  # the last training images, held out to watch a run
_MOST_BYTES = 400 << 20


def load(data_dir: Path | None = None) -> Dataset:
    """Load SVHN: train 72,257, val the last 1,000 training images, test 26,032, 32×32×3.

    Raises DataError if a file is missing or damaged.
    """

    def find(folder: Path) -> Path | None:
        return folder if (folder / "train_32x32.mat").exists() else None

    folder = located(data_dir, DOWNLOAD, find)
    train, test = (read(folder / f"{part}_32x32.mat") for part in ("train", "test"))
    if len(train) <= N_VAL:
        raise DataError(
            f"{folder}: {len(train)} training images, but SVHN has 73,257; download it again"
        )
    return Dataset(
        name="svhn",
        classes=tuple("0123456789"),
        train=Split(train.images[:-N_VAL], train.labels[:-N_VAL]),
        val=Split(train.images[-N_VAL:], train.labels[-N_VAL:]),
        test=test,
        preprocessing=PREPROCESSING,
        flip=False,
    )


def read(path: Path) -> Split:
    """One .mat file: X uint8 [32, 32, 3, N] and y [N, 1] in 1…10, where 10 is the digit 0."""
    try:
        n_bytes = path.stat().st_size
        if n_bytes > _MOST_BYTES:
            raise DataError(
                f"{path} has {n_bytes:,} bytes, which is not the size of an SVHN file; download "
                "it again"
            )
        content = read_arrays(path.read_bytes(), most_bytes=_MOST_BYTES)
    except FileNotFoundError as e:
        raise DataError(f"{path} is missing; {DOWNLOAD.by_hand(path.parent)}") from e
    except (OSError, ValueError, zlib.error) as e:
        raise DataError(f"{path} is damaged or not a .mat file ({e}); download it again") from e
    shapes = {name: (a.dtype.name, a.shape) for name, a in content.items()}
    images, labels = content.get("X"), content.get("y")
    if (
        images is None
        or labels is None
        or images.dtype != np.uint8
        or images.shape[:-1] != (32, 32, 3)
        or labels.shape != (images.shape[-1], 1)
    ):
        raise DataError(
            f"{path} must hold X uint8 [32, 32, 3, N] and y [N, 1], not {shapes!s:.120}; download "
            "it again"
        )
    labels = labels.reshape(-1)
    if not len(labels) or not np.isin(labels, np.arange(11)).all():
        raise DataError(f"{path} is damaged: y must be in 0..10; download it again")
    return Split(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels.astype(np.int64) % 10)
