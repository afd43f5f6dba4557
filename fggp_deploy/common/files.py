"""Atomic writes, hashes, and checks of files that are about to be read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from fggp_deploy.errors import FileError, MachineError

FULL = (errno.ENOSPC, errno.EDQUOT)  # the system's errors if no more can be written


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling (file or folder, to be made by the caller); rename it on success.

    On any error the temporary is removed and what was at `path` before is untouched. A full disk,
    a missing permission or a read-only file system becomes a MachineError.
    """
    tmp = _beside(path, "tmp")
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


def write_atomic(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """Write a whole file atomically; text is UTF-8. `private`: only its owner may read it."""
    with atomic_path(path) as tmp:
        if private:
            tmp.touch(mode=0o600)
        tmp.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def written_together(contents: Mapping[Path, bytes]) -> Iterator[None]:
    """Write files as a set: after any error each is as it was before.

    All are first written beside their places, then the block runs, then all are put in place.
    """
    temporary = {path: _beside(path, "tmp") for path in contents}
    old = {path: _beside(path, "old") for path in contents}
    replaced: list[Path] = []
    path = next(iter(contents))
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary[path].open("wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
        yield
        for path in contents:
            if path.exists():
                _link(path, old[path])
        for path in contents:
            temporary[path].replace(path)
            replaced.append(path)
        _sync_folder(path.parent)
    except BaseException as e:
        for done in replaced:
            if old[done].exists():
                old[done].replace(done)
            else:
                _remove(done)
        if isinstance(e, OSError):
            raise write_error(path, e) from e
        raise
    finally:
        for left in (*temporary.values(), *old.values()):
            _remove(left)


def check_readable(path: Path, error: type[FileError] = FileError) -> int:
    """The size in bytes of a regular file that exists, is not empty and may be read.

    Raises `error`, or MachineError if the permission is missing. The file is not read, because a
    pipe or device could block.
    """
    try:
        str(path).encode()
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise error(f"{path} is a folder; give the file in it")
        if not stat.S_ISREG(found.st_mode):
            raise error(f"{path} is not a regular file but a device, pipe or socket; give a file")
        path.open("rb").close()
    except FileNotFoundError as e:
        raise error(f"{path} does not exist") from e
    except PermissionError as e:
        raise MachineError(f"{path} may not be read; change its permissions (chmod u+r)") from e
    except NotADirectoryError as e:
        raise error(f"{path} does not exist: a part of it is a file, not a folder") from e
    except UnicodeEncodeError as e:
        raise error(
            f"the name of {path} is not UTF-8 text, which some readers do not accept; rename it"
        ) from e
    except (OSError, ValueError) as e:  # ELOOP, ENAMETOOLONG; a NUL in the name
        if isinstance(e, OSError) and e.errno == errno.ELOOP:
            raise error(f"{path} is a loop of symbolic links; give the file itself") from e
        raise error(f"{path} cannot be opened ({getattr(e, 'strerror', e)})") from e
    if not found.st_size:
        raise error(f"{path} is empty (0 bytes); copy it again")
    return found.st_size


def contains(path: Path, text: bytes) -> bool:
    """Whether a file holds these bytes; False for one that is missing, empty or no regular file."""
    try:
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0
    except (OSError, ValueError):
        return False


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file; of a folder, the hash over its files' relative names and hashes."""
    if path.is_dir():
        h = hashlib.sha256()
        for p in sorted(p for p in path.rglob("*") if p.is_file()):
            h.update(f"{p.relative_to(path).as_posix()}\0{sha256_file(p)}\n".encode())
        return h.hexdigest()
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder for temporary files, removed at the end.

    An OSError from making or using it becomes a MachineError, as `scratch_error` words it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as folder:
            yield Path(folder)
    except OSError as e:
        raise scratch_error(e.strerror or str(e)) from e


def scratch_error(why: str) -> MachineError:
    """The one line for temporary files that cannot be written, with its cure."""
    return MachineError(
        f"temporary files cannot be written ({why}); free some space, or set TMPDIR to a folder "
        "that has room"
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError from writing to a file that stays open into a MachineError."""
    try:
        yield
    except OSError as e:
        raise write_error(path, e) from e


def write_error(path: Path, e: OSError) -> MachineError:
    """The one line for a failed write, with its cure."""
    if e.errno in FULL:
        cure = "the disk is full; free some space or choose another --out"
    elif e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        cure = "it may not be written; choose another --out"
    else:
        cure = f"{e.strerror or e}"
    return MachineError(f"cannot write {path}: {cure}")


def _beside(path: Path, suffix: str) -> Path:
    """An unused name in the folder of `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{suffix}")


def _link(path: Path, name: Path) -> None:
    """Give a file a second name; a copy on a file system that has no links."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copy2(path, name)


def _replace_folder(new: Path, path: Path) -> None:
    if not path.exists():
        new.replace(path)
        return
    old = _beside(path, "old")
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
