"""Image files as a source to stream from, and their check before a run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fggp_deploy.common.progress import Progress
from fggp_deploy.data import images
from fggp_deploy.data.decoding import chunked
from fggp_deploy.errors import DataError, FggpError, FggpWarning

_NAMED = 3  # unreadable images that an error or warning names
Header = images.Header


class ImageFiles:
    """Files below a root, by relative name; a Source.

    The names are one block of bytes, so that worker processes share them: a list of strings would
    be copied, page by page, as their reference counts change.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.root = root
        self._block = b"".join(encoded)
        self._ends = np.cumsum([len(e) for e in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def path(self, i: int) -> Path:
        """The path of image i."""
        start = int(self._ends[i - 1]) if i else 0
        return self.root / os.fsdecode(self._block[start : int(self._ends[i])])

    def open(self, i: int) -> Image.Image:
        """Image i, decoded and upright; raises DataError or MachineError with its path."""
        return images.upright(self.path(i))

    def content(self, i: int) -> bytes:
        """The bytes of its file; raises as `open`."""
        return images.file_bytes(self.path(i))

    def name(self, i: int) -> str:
        """Its path."""
        return str(self.path(i))


def check(
    files: ImageFiles, *, skip: bool, workers: int, progress: Progress
) -> tuple[npt.NDArray[np.bool_], list[Header]]:
    """Check every file's header: which files are images, and the headers of those.

    With `skip` every image is decoded too, and the bad ones are left out with a warning that
    counts them. Raises DataError that names the first bad ones otherwise, and when all are bad.
    """
    ok = np.zeros(len(files), bool)
    headers: list[Header] = []
    bad: list[FggpError] = []
    done = 0
    for piece in chunked(_Check(files, fully=skip), len(files), workers=workers):
        for found in piece:
            ok[done] = isinstance(found, Header)
            done += 1
            if isinstance(found, Header):
                headers.append(found)
            else:
                bad.append(found)
        progress("checking images", done, len(files))
    if not bad:
        return ok, headers
    if not skip and len(bad) == 1:
        raise bad[0]
    share = f"{len(bad):,} of {len(files):,} images in {files.root} cannot be read"
    named = "; ".join(str(e).partition(";")[0] for e in bad[:_NAMED])
    if not skip:
        kind = type(bad[0])  # a lack of permission is the environment's
        raise kind(f"{share}: {named}; repair or remove them, or give --skip-unreadable")
    if not headers:
        raise DataError(f"{share}, so none is left: {named}")
    warnings.warn(f"{share} and are left out: {named}", FggpWarning, stacklevel=2)
    return ok, headers


class _Check:
    def __init__(self, files: ImageFiles, *, fully: bool) -> None:
        self.files, self.fully = files, fully

    def __call__(self, index: range) -> list[Header | FggpError]:
        return [self._one(self.files.path(i)) for i in index]

    def _one(self, path: Path) -> Header | FggpError:
        try:
            return images.check(path, fully=self.fully)
        except FggpError as e:
            e.__cause__ = None  # a decoder's own exception need not pickle
            return e
