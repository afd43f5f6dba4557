"""Finds the images below a folder; ignores hidden files, and refuses loops of links."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fggp_deploy.data.images import SUFFIXES
from fggp_deploy.errors import DataError, MachineError

PART_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_MAX_DEPTH = 32
_Id = tuple[int, int]  # of a folder, independent of the path


@dataclass(frozen=True)
class Tree:
    """The images below a folder. `names`: relative, "/" between; `owners`: the class of each."""

    root: Path
    names: tuple[str, ...]
    owners: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted."""
        return tuple(sorted(set(self.owners)))


def scan(root: Path) -> Tree:
    """All images below the class folders of `root`, sorted by name within each class.

    Raises DataError if there are no class folders, if one has no images, if a link leads back to a
    folder above it or to a folder that was already read, or if a class name is not UTF-8;
    MachineError without permission to read.
    """
    names: list[str] = []
    owners: list[str] = []
    empty = []
    seen: set[_Id] = set()
    for owner in sorted(folders(root)):
        if not _is_utf8(owner):
            raise DataError(
                f"{_shown(root / owner)}: a class's name must be UTF-8; rename the folder"
            )
        found = sorted(_images(root / owner, owner, (_id(root),), seen))
        names += found
        owners += [owner] * len(found)
        if not found:
            empty.append(owner)
    if not owners and not empty:
        raise DataError(
            f"{root} has no class folders; put each class's images in a folder of its own "
            f"({root}/cat/1.jpg)"
        )
    if empty:
        raise DataError(
            f"{root / empty[0]} holds no images ({', '.join(sorted(SUFFIXES))}); fill or remove it"
        )
    return Tree(root, tuple(names), tuple(owners))


def find_parts(root: Path) -> dict[str, Path]:
    """The folders of train, val and test that exist; {} if root holds the class folders.

    A folder is a part only if it contains folders, because a class may be called "train". Raises
    DataError if root is not a folder, or if two folders have names of the same part.
    """
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise DataError(
            f"{_shown(root)} {what}; --data folder:PATH needs a folder with one folder per class"
        )
    below = folders(root)
    found: dict[str, Path] = {}
    for part, names in PART_NAMES.items():
        of_part = [f for f in below if f.lower() in names and folders(root / f)]
        if len(of_part) > 1:
            raise DataError(f"{root} has both {of_part[0]} and {of_part[1]}; keep one as {part}")
        if of_part:
            found[part] = root / of_part[0]
    return found


def folders(root: Path) -> list[str]:
    """Names of the folders in `root` that are not hidden."""
    return [e.name for e in _entries(root) if _is_dir(e)]


def _images(folder: Path, name: str, above: tuple[_Id, ...], seen: set[_Id]) -> Iterator[str]:
    """Names below `folder`, which is `name`; `above`: the folders that lead to it."""
    own = _id(folder)
    if own in above:
        raise DataError(
            f"{_shown(folder)} is a link that leads back to a folder above it; remove it"
        )
    if own in seen:
        raise DataError(f"{_shown(folder)} is reached twice through links; keep one of the links")
    if len(above) > _MAX_DEPTH:
        raise DataError(f"{_shown(folder)} is more than {_MAX_DEPTH} folders deep; flatten it")
    seen.add(own)
    for entry in _entries(folder):
        below = f"{name}/{entry.name}"
        if _is_dir(entry):
            yield from _images(folder / entry.name, below, (*above, own), seen)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and _is_file(entry):
            yield below


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return [e for e in found if not e.name.startswith(".") and e.name != "__MACOSX"]
    except PermissionError as e:
        raise MachineError(f"{_shown(folder)} may not be read; change its permissions") from e
    except OSError as e:
        raise DataError(f"{_shown(folder)} cannot be read ({e.strerror or e})") from e


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise DataError(
                f"{_shown(entry.path)} is a link that leads to itself; remove it"
            ) from e
        raise DataError(f"{_shown(entry.path)} cannot be read ({e.strerror or e})") from e


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A file, or a link to nothing, which the check of images names; no pipe, no device."""
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def _id(folder: Path) -> _Id:
    try:
        stat = folder.stat()
    except PermissionError as e:
        raise MachineError(f"{_shown(folder)} may not be read; change its permissions") from e
    except OSError as e:
        raise DataError(f"{_shown(folder)} cannot be read ({e.strerror or e})") from e
    return (stat.st_dev, stat.st_ino)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: Path | str) -> str:
    """A path that can be printed: bytes that are not UTF-8 as \\x.."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
