"""Data sets by name, read with numpy and Pillow alone, so that verification needs no torch."""

from __future__ import annotations

import importlib
from pathlib import Path

from fggp_deploy.data.reading import Reading
from fggp_deploy.data.types import Dataset, Preprocessing, Split, Stream
from fggp_deploy.errors import ConfigError, UnknownName, quoted

__all__ = ["DATASETS", "Dataset", "Preprocessing", "Reading", "Split", "Stream", "load",
           "short_name"]  # fmt: skip

DATASETS = {
    "fashion-mnist-12k": ("mnist", "load_embedded"),
    "fashion-mnist": ("mnist", "load_official"),
    "mnist": ("mnist", "load_mnist"),
    "cifar10": ("cifar", "load"),
    "cifar100": ("cifar", "load_100"),
    "svhn": ("svhn", "load"),
}
DEFAULT = "fashion-mnist-12k"
KINDS = ("folder:PATH", "hf:NAME_OR_PATH", "FILE.py:FUNCTION")


def load(
    name: str = DEFAULT, data_dir: Path | None = None, reading: Reading | None = None
) -> Dataset:
    """Load a data set: a registered name, `folder:PATH`, `hf:NAME_OR_PATH` or `FILE.py:FUNCTION`.

    `data_dir` is the folder of a registered data set, in torchvision's layout; without it, the data
    set is read from the cache or downloaded. Raises UnknownName, ConfigError for options that do
    not fit, DataError for missing or damaged files, and MachineError without permission to read.
    """
    reading = reading or Reading()
    kind, where = _parse(name)
    if kind == "folder":
        from fggp_deploy.data import image_folder

        data = image_folder.load(Path(where).expanduser(), short_name(name), reading)
    elif kind == "hf":
        from fggp_deploy.data import huggingface

        data = huggingface.load(where, short_name(name), reading)
    elif kind == "py":
        from fggp_deploy.data import own_code

        data = own_code.load(where, short_name(name), reading)
    elif name in DATASETS:
        module, loader = DATASETS[name]
        read = getattr(importlib.import_module(f"{__name__}.{module}"), loader)
        from fggp_deploy.data.assembling import adapted

        data = adapted(read(data_dir), reading)
    elif Path(name).is_dir():
        raise ConfigError(
            f"{name!r} is a folder; for its images give {quoted('--data', f'folder:{name}')}"
        )
    else:
        raise UnknownName("data set", name, (*DATASETS, *KINDS))
    return data


def short_name(name: str) -> str:
    """The name of a data set in artifacts: without the folders that lead to it.

    >>> short_name("folder:/home/me/flowers")
    'folder:flowers'
    """
    kind, where = _parse(name)
    if kind == "py":
        return Path(where).name
    return f"{kind}:{Path(where).expanduser().resolve().name}" if kind else name


def _parse(name: str) -> tuple[str, str]:
    """Kind ("folder", "hf", "py"; "" for a registered name) and location."""
    kind, _, where = name.partition(":")
    if kind in ("folder", "hf") and where:
        return kind, where
    return ("py" if ".py:" in name else ""), name
