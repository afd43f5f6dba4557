"""Data sets by name, read with numpy alone, so that verification needs no torch."""

from __future__ import annotations

import importlib
from pathlib import Path

from fggp_deploy.data.types import Dataset, Preprocessing, Split
from fggp_deploy.errors import UnknownName

__all__ = ["DATASETS", "Dataset", "Preprocessing", "Split", "load"]

DATASETS = {
    "fashion-mnist-12k": ("fashion_mnist", "load_embedded"),
    "fashion-mnist": ("fashion_mnist", "load_official"),
    "cifar10": ("cifar10", "load"),
}
DEFAULT = "fashion-mnist-12k"


def load(name: str = DEFAULT, data_dir: Path | None = None) -> Dataset:
    """Load a registered data set.

    `data_dir` is the folder that holds the data, as torchvision would have it.
    Raises UnknownName, and DataError when files are missing or damaged.
    """
    if name not in DATASETS:
        raise UnknownName("data set", name, DATASETS)
    module, loader = DATASETS[name]
    data: Dataset = getattr(importlib.import_module(f"{__name__}.{module}"), loader)(data_dir)
    return data
