"""Data sets by name, read with numpy alone, so that verification needs no torch."""

from __future__ import annotations

import importlib
from pathlib import Path

from fggp_deploy.data.types import Dataset, Preprocessing, Split
from fggp_deploy.errors import UnknownName

__all__ = ["DATASETS", "Dataset", "Preprocessing", "Split", "load"]

DATASETS = {
    "fashion-mnist-12k": "fggp_deploy.data.fashion_mnist",
    "cifar10": "fggp_deploy.data.cifar10",
}
DEFAULT = "fashion-mnist-12k"


def load(name: str = DEFAULT, data_dir: Path | None = None) -> Dataset:
    """Load a registered data set.

    `data_dir` is the folder torchvision would use (for cifar10, it holds `cifar-10-batches-py`).
    Raises UnknownName, and DataError when files are missing or damaged.
    """
    if name not in DATASETS:
        raise UnknownName("data set", name, DATASETS)
    data: Dataset = importlib.import_module(DATASETS[name]).load(data_dir)
    return data
