"""Finds a named data set, and downloads it through torchvision if it is missing."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fggp_deploy.errors import DataError, MachineError, shortened

_TIMEOUT_S = 30.0  # seconds without any data


@dataclass(frozen=True)
class Download:
    """A data set that torchvision can fetch.

    `torchvision`: its class there. `files`: what to fetch by hand, from `page`; `megabytes` in all.
    `unpack`: what to do with them then.
    """

    name: str
    torchvision: str
    files: str
    page: str
    megabytes: int
    unpack: str = ""

    @property
    def title(self) -> str:
        """Its usual name."""
        return {"FashionMNIST": "Fashion-MNIST"}.get(self.torchvision, self.torchvision)

    def by_hand(self, folder: Path) -> str:
        """Instructions for downloading the files by hand."""
        return f"fetch {self.files} from {self.page} into {folder}{self.unpack}"


def cache_folder() -> Path:
    """The folder of downloads: `$XDG_CACHE_HOME/fggp-deploy/data`, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fggp-deploy" / "data"


def located(data_dir: Path | None, download: Download, find: Callable[[Path], Path | None]) -> Path:
    """The folder in which `find` finds the files: `data_dir`, or the cache after a download.

    `data_dir` is only read. Raises DataError that says what to download by hand.
    """
    folder = cache_folder() if data_dir is None else data_dir
    if (found := find(folder)) is not None:
        return found
    if data_dir is not None:
        what = "does not hold" if folder.is_dir() else "is not a folder, so it does not hold"
        raise DataError(f"{folder} {what} {download.name}; {download.by_hand(folder)}")
    _fetch(download, folder)
    if (found := find(folder)) is None:
        raise DataError(f"the download into {folder} is incomplete; {download.by_hand(folder)}")
    return found


def _fetch(download: Download, folder: Path) -> None:
    by_hand = f"{download.by_hand(folder)}, or give --data-dir"
    try:
        from fggp_deploy.common.torchvision_import import import_torchvision

        import_torchvision()
    except (ImportError, MachineError) as e:
        raise DataError(
            f"{download.name} is not on this machine, and downloading it needs torchvision; "
            f"{by_hand}"
        ) from e
    print(
        f"downloading {download.title} ({download.megabytes} MB) to {folder}",
        file=sys.stderr,
        flush=True,
    )
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _torchvision_fetch(download.torchvision, folder)
    except Exception as e:  # what torchvision and urllib raise has no common base
        why = shortened(e) or type(e).__name__
        raise DataError(f"{download.name} cannot be downloaded ({why}); {by_hand}") from e
    finally:
        socket.setdefaulttimeout(before)


def _torchvision_fetch(name: str, folder: Path) -> None:
    from torchvision import datasets

    make: Any = getattr(datasets, name)
    if name == "SVHN":
        for split in ("train", "test"):
            make(str(folder), split=split, download=True)
    else:
        make(str(folder), download=True)
