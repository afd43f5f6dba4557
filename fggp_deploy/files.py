"""Writing so that nothing is ever half written, and hashing what is read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from fggp_deploy.errors import MachineError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling (file or folder, to be made by the caller); rename it on success.

    On any error the temporary is removed and what was at `path` before is untouched. A full disk,
    a missing permission or a read-only file system becomes a MachineError.
    """
    tmp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield tmp
        if tmp.is_dir():
            _replace_folder(tmp, path)
        else:
            with tmp.open("rb+") as f:
                os.fsync(f.fileno())
            tmp.replace(path)
        _sync_folder(path.parent)
    except OSError as e:
        raise write_error(path, e) from e
    finally:
        _remove(tmp)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file atomically; text is UTF-8."""
    with atomic_path(path) as tmp:
        tmp.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file; of a folder, the hash over its files' relative names and hashes."""
    if path.is_dir():
        h = hashlib.sha256()
        for p in sorted(p for p in path.rglob("*") if p.is_file()):
            h.update(f"{p.relative_to(path).as_posix()}\0{sha256_file(p)}\n".encode())
        return h.hexdigest()
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_error(path: Path, e: OSError) -> MachineError:
    """The one line for a failed write, with its cure."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        cure = "the disk is full; free some space or choose another --out"
    elif e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        cure = "it may not be written; choose another --out"
    else:
        cure = f"{e.strerror or e}"
    return MachineError(f"cannot write {path}: {cure}")


def _replace_folder(new: Path, path: Path) -> None:
    if not path.exists():
        new.replace(path)
        return
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    path.replace(old)
    try:
        new.replace(path)
    except OSError:
        old.replace(path)
        raise
    _remove(old)


def _sync_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can sync a folder
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
