"""CIFAR-10 (Krizhevsky 2009) from the folder that torchvision uses, read with numpy alone.

The official files are Python pickles. They are read by an unpickler that knows only numpy arrays
and plain containers, so a file that wants to run code is refused.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from fggp_deploy.data.types import Dataset, Images, Labels, Preprocessing, Split
from fggp_deploy.errors import DataError

FOLDER = "cifar-10-batches-py"
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
PREPROCESSING = Preprocessing(
    height=32, width=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)
N_VAL = 1_000  # the last training images, held out to watch a run


def load(data_dir: Path | None = None) -> Dataset:
    """Load CIFAR-10 from `data_dir`, which holds `cifar-10-batches-py` (or is that folder).

    Train 49,000, val the last 1,000 training images, test 10,000, all uint8 32×32×3.
    Raises DataError when a file is missing or damaged.
    """
    if data_dir is None:
        raise DataError(
            f"cifar10 is not shipped: give --data-dir, the folder that holds {FOLDER} "
            f"(torchvision.datasets.CIFAR10(root, download=True) makes it)"
        )
    folder = data_dir if data_dir.name == FOLDER else data_dir / FOLDER
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; --data-dir must hold {FOLDER}")
    train = [_batch(folder / f"data_batch_{i}") for i in range(1, 6)]
    x = np.concatenate([b[0] for b in train])
    y = np.concatenate([b[1] for b in train])
    test = _batch(folder / "test_batch")
    cut = len(x) - N_VAL
    return Dataset(
        name="cifar10",
        classes=CLASSES,
        train=Split(x[:cut], y[:cut]),
        val=Split(x[cut:], y[cut:]),
        test=Split(*test),
        preprocessing=PREPROCESSING,
    )


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}")
        return _ALLOWED[module, name]


def _batch(path: Path) -> tuple[Images, Labels]:
    """One official batch: uint8 [N, 32, 32, 3], int64 [N]."""
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}; fetch CIFAR-10 again") from e
    try:
        d = _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
        images, labels = d[b"data"], np.asarray(d[b"labels"], np.int64)
    except Exception as e:  # an unpickler fed with garbage raises almost anything
        raise DataError(f"{path} is damaged or no CIFAR-10 batch: {e}") from e
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.shape != (len(labels), 3072)
        or labels.ndim != 1
    ):
        raise DataError(f"{path} is damaged: it must hold uint8 images [N, 3072] and N labels")
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
