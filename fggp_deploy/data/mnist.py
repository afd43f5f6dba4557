"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747).

12,000 images of Fashion-MNIST come with the package: official training images 0–8,999 to train,
9,000–9,999 held out, test images 0–1,999.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from fggp_deploy.data import idx
from fggp_deploy.data.download import Download, located
from fggp_deploy.data.types import Dataset, Preprocessing, Split
from fggp_deploy.errors import DataError

EMBEDDED = Path(__file__).with_name("fashion_mnist.npz")
N_TRAIN, N_VAL, N_TEST = 9_000, 1_000, 2_000
FASHION_CLASSES = (
    "t-shirt/top", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
FASHION_PREPROCESSING = Preprocessing(height=28, width=28, mean=(0.2860,), std=(0.3530,))
MNIST_PREPROCESSING = Preprocessing(height=28, width=28, mean=(0.1307,), std=(0.3081,))
_FILES = (
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
    "t10k-labels-idx1-ubyte.gz"
)
FASHION_DOWNLOAD = Download(
    "fashion-mnist", "FashionMNIST", _FILES, "https://github.com/zalandoresearch/fashion-mnist", 31
)
MNIST_DOWNLOAD = Download(
    "mnist", "MNIST", _FILES, "https://ossci-datasets.s3.amazonaws.com/mnist", 12
)


def load_embedded(data_dir: Path | None = None) -> Dataset:
    """Load the images that the package ships; `data_dir` is not needed and not read."""
    try:
        with np.load(EMBEDDED, allow_pickle=False) as z:
            train, val, test = (
                Split(z[f"x_{part}"], z[f"y_{part}"].astype(np.int64))
                for part in ("train", "val", "test")
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as e:
        raise DataError(f"the embedded data {EMBEDDED} is damaged ({e}); reinstall") from e
    return _fashion("fashion-mnist-12k", train, val, test)


def load_official(data_dir: Path | None = None) -> Dataset:
    """Load the four official files of Fashion-MNIST.

    Test: all 10,000; val: the 1,000 images that the embedded set holds out; train: the other
    59,000. Raises DataError when a file is missing or damaged.
    """
    return _fashion("fashion-mnist", *_splits(data_dir, FASHION_DOWNLOAD))


def load_mnist(data_dir: Path | None = None) -> Dataset:
    """Load the four official files of MNIST, split as Fashion-MNIST. Raises as load_official."""
    return Dataset(
        "mnist",
        tuple("0123456789"),
        *_splits(data_dir, MNIST_DOWNLOAD),
        MNIST_PREPROCESSING,
        flip=False,
        crop_padding=2,
    )


def _fashion(name: str, train: Split, val: Split, test: Split) -> Dataset:
    return Dataset(name, FASHION_CLASSES, train, val, test, FASHION_PREPROCESSING, crop_padding=2)


def _splits(data_dir: Path | None, download: Download) -> tuple[Split, Split, Split]:
    below = f"{download.torchvision}/raw"
    folder = located(data_dir, download, lambda at: idx.find(at, "train", below=below))
    x, y = idx.read(folder, "train", name=download.title)
    held = np.zeros(len(x), bool)
    held[N_TRAIN : N_TRAIN + N_VAL] = True
    test = Split(*idx.read(folder, "t10k", name=download.title))
    return Split(x[~held], y[~held]), Split(x[held], y[held]), test
