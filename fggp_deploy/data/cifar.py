"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from torchvision's folders, read with numpy alone.

The official files are Python pickles. They are read by an unpickler that accepts only numpy arrays
and plain containers, after every instruction has been checked. A file that would run code or use
too much memory is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fggp_deploy.data.cifar_classes import CIFAR10_CLASSES, CIFAR100_CLASSES
from fggp_deploy.data.download import Download, located
from fggp_deploy.data.types import Dataset, Images, Labels, Preprocessing, Split
from fggp_deploy.errors import DataError, shortened

FOLDER, FOLDER_100 = "cifar-10-batches-py", "cifar-100-python"
PREPROCESSING = Preprocessing(
    height=32, width=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)
PREPROCESSING_100 = Preprocessing(
    height=32, width=32, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)
)
_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
DOWNLOAD = Download(
    "cifar10", "CIFAR10", "cifar-10-python.tar.gz", _PAGE, 170, f", unpack it there to {FOLDER}"
)
DOWNLOAD_100 = Download(
    "cifar100", "CIFAR100", "cifar-100-python.tar.gz", _PAGE, 169,
    f", unpack it there to {FOLDER_100}",
)  # fmt: skip
N_VAL = 1_000  # the last training images, held out to watch a run; at most a fifth of them
_MOST_BYTES = 256 << 20


def load(data_dir: Path | None = None) -> Dataset:
    """Load CIFAR-10 from `data_dir`, which holds `cifar-10-batches-py` (or is that folder).

    Train 49,000, val the last 1,000 training images, test 10,000, all uint8 32×32×3.
    Raises DataError if a file is missing or damaged.
    """
    folder = located(data_dir, DOWNLOAD, _finder(FOLDER))
    train = [_batch(folder / f"data_batch_{i}", b"labels", 10) for i in range(1, 6)]
    test = _batch(folder / "test_batch", b"labels", 10)
    return _dataset("cifar10", CIFAR10_CLASSES, train, test, PREPROCESSING)


def load_100(data_dir: Path | None = None) -> Dataset:
    """Load CIFAR-100 with its fine labels from `data_dir`, which holds `cifar-100-python`.

    Split and raises as CIFAR-10.
    """
    folder = located(data_dir, DOWNLOAD_100, _finder(FOLDER_100))
    train, test = (_batch(folder / part, b"fine_labels", 100) for part in ("train", "test"))
    return _dataset("cifar100", CIFAR100_CLASSES, [train], test, PREPROCESSING_100)


def _finder(name: str) -> Callable[[Path], Path | None]:
    def find(folder: Path) -> Path | None:
        folder = folder if folder.name == name else folder / name
        return folder if folder.is_dir() else None

    return find


def _dataset(
    name: str,
    classes: tuple[str, ...],
    train: Sequence[tuple[Images, Labels]],
    test: tuple[Images, Labels],
    preprocessing: Preprocessing,
) -> Dataset:
    x = np.concatenate([images for images, _ in train])
    y = np.concatenate([labels for _, labels in train])
    cut = len(x) - min(N_VAL, len(x) // 5)
    return Dataset(
        name=name,
        classes=classes,
        train=Split(x[:cut], y[:cut]),
        val=Split(x[cut:], y[cut:]),
        test=Split(*test),
        preprocessing=preprocessing,
    )


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
}
_CODE = frozenset({"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID",
                   "BINPERSID", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER"})  # fmt: skip
_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_MOST_MEMO = 1 << 20  # the unpickler makes a table as long as the largest number


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it would load {module}.{name}")
        return _ALLOWED[module, name]


def _unpickle(raw: bytes) -> Any:
    """Plain containers, strings, numbers and arrays; raises almost anything on garbage."""
    for opcode, argument, _ in pickletools.genops(raw):
        if opcode.name in _CODE:
            raise pickle.UnpicklingError(f"it has the instruction {opcode.name}")
        if opcode.name in _MEMO and isinstance(argument, int) and argument > _MOST_MEMO:
            raise pickle.UnpicklingError(f"it claims {argument:,} memo entries")
    return _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()


def _batch(path: Path, key: bytes, n_classes: int) -> tuple[Images, Labels]:
    """One official batch: uint8 [N, 32, 32, 3], int64 [N] in 0 … n_classes − 1."""
    try:
        n_bytes = path.stat().st_size
        if n_bytes > _MOST_BYTES:
            raise DataError(
                f"{path} has {n_bytes:,} bytes, which is not the size of a CIFAR file; download "
                "it again"
            )
        raw = path.read_bytes()
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}; download CIFAR again") from e
    try:
        d = _unpickle(raw)
        images, labels = d[b"data"], np.asarray(d[key], np.int64)
    except Exception as e:  # an unpickler fed with garbage raises almost anything
        raise DataError(
            f"{path} is damaged or not a CIFAR batch ({shortened(e)}); download it again"
        ) from e
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or labels.ndim != 1
        or images.shape != (len(labels), 3072)
    ):
        raise DataError(f"{path} is damaged: it must hold uint8 images [N, 3072] and N labels")
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise DataError(f"{path} is damaged: its labels must be in 0..{n_classes - 1}")
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
