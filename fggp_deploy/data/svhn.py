"""SVHN, cropped digits (Netzer et al. 2011), from the two .mat files that torchvision fetches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fggp_deploy.data.download import Download, located
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
_MOST_IMAGES = 100_000


def load(data_dir: Path | None = None) -> Dataset:
    """Load SVHN: train 72,257, val the last 1,000 training images, test 26,032, 32×32×3.

    Raises DataError when a file is missing or damaged.
    """

    def find(folder: Path) -> Path | None:
        return folder if (folder / "train_32x32.mat").exists() else None

    folder = located(data_dir, DOWNLOAD, find)
    train, test = (read(folder / f"{part}_32x32.mat") for part in ("train", "test"))
    if len(train) <= N_VAL:
        raise DataError(f"{folder}: {len(train)} training images; SVHN has 73,257, fetch it again")
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
    from scipy.io import loadmat, whosmat

    try:
        n_bytes = path.stat().st_size
        if n_bytes > _MOST_BYTES:
            raise DataError(f"{path} has {n_bytes:,} bytes, no file of SVHN's; fetch it again")
        shapes = {name: shape for name, shape, _ in whosmat(str(path))}
        n = shapes["X"][3]
        if shapes["X"] != (32, 32, 3, n) or shapes["y"] != (n, 1) or not 0 < n <= _MOST_IMAGES:
            raise DataError(f"{path} must hold X [32, 32, 3, N] and y [N, 1], not {shapes}")
        content = loadmat(str(path), variable_names=["X", "y"])
        images, labels = content["X"], content["y"].reshape(-1)
    except DataError:
        raise
    except FileNotFoundError as e:
        raise DataError(f"{path} is missing; {DOWNLOAD.by_hand(path.parent)}") from e
    except Exception as e:  # a reader fed with garbage raises almost anything
        raise DataError(f"{path} is damaged or no .mat file ({e}); fetch it again") from e
    if images.dtype != np.uint8 or labels.dtype.kind not in "uif" or len(labels) != n:
        raise DataError(f"{path} is damaged: X must be uint8 and y numbers; fetch it again")
    if not np.isin(labels, np.arange(11)).all():
        raise DataError(f"{path} is damaged: y must be in 0..10; fetch it again")
    return Split(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels.astype(np.int64) % 10)
