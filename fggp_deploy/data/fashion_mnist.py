"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747); 12,000 images come with the package.

Embedded: official training images 0–8,999 to train, 9,000–9,999 held out, test images 0–1,999.
"""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fggp_deploy.data.types import Dataset, Images, Labels, Preprocessing, Split
from fggp_deploy.errors import DataError

EMBEDDED = Path(__file__).with_name("fashion_mnist.npz")
N_TRAIN, N_VAL, N_TEST = 9_000, 1_000, 2_000
CLASSES = (
    "t-shirt/top", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
PREPROCESSING = Preprocessing(height=28, width=28, mean=(0.2860,), std=(0.3530,))


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
    return _dataset("fashion-mnist-12k", train, val, test)


def load_official(data_dir: Path | None = None) -> Dataset:
    """Load the four official files from `data_dir`.

    Test: all 10,000; val: the 1,000 images that the embedded set holds out; train: the other
    59,000. Raises DataError when a file is missing or damaged.
    """
    if data_dir is None:
        raise DataError("fashion-mnist needs --data-dir, the folder of the four official .gz files")
    x, y = read_official(data_dir, "train")
    held = np.zeros(len(x), bool)
    held[N_TRAIN : N_TRAIN + N_VAL] = True
    test = Split(*read_official(data_dir, "t10k"))
    return _dataset("fashion-mnist", Split(x[~held], y[~held]), Split(x[held], y[held]), test)


def _dataset(name: str, train: Split, val: Split, test: Split) -> Dataset:
    return Dataset(name, CLASSES, train, val, test, PREPROCESSING, crop_padding=2)


def read_official(folder: Path, part: str) -> tuple[Images, Labels]:
    """Read `{part}-images-idx3-ubyte.gz` and its labels: uint8 [N, 28, 28, 1], int64 [N]."""
    images = _idx(folder / f"{part}-images-idx3-ubyte.gz", (28, 28))
    labels = _idx(folder / f"{part}-labels-idx1-ubyte.gz", ())
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images but {len(labels)} labels")
    return images[..., None], labels.astype(np.int64)


def _idx(path: Path, item_shape: tuple[int, ...]) -> Images:
    """Read an IDX file of bytes; its header is checked against what is expected and there."""
    limit = 70_000 * 28 * 28
    try:
        with gzip.open(path) as f:
            raw = f.read(limit + 16)
    except FileNotFoundError as e:
        raise DataError(
            f"{path} is missing; --data-dir must hold the four official Fashion-MNIST .gz files"
        ) from e
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path} is damaged ({e}); fetch it again") from e
    n_dims = 1 + len(item_shape)
    head = struct.Struct(f">HBB{n_dims}I")
    if len(raw) < head.size:
        raise DataError(f"{path} is damaged (truncated header); fetch it again")
    zero, kind, dims, *shape = head.unpack_from(raw)
    want = shape[0] * int(np.prod(item_shape, dtype=np.int64))
    if (zero, kind, dims) != (0, 8, n_dims) or tuple(shape[1:]) != item_shape:
        raise DataError(f"{path} is no IDX file of {item_shape} bytes")
    if len(raw) - head.size != want:
        raise DataError(f"{path} is damaged ({len(raw) - head.size} of {want} bytes)")
    return np.frombuffer(raw, np.uint8, offset=head.size).reshape(shape)
