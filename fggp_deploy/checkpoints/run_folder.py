"""A run's folder: the names of its files, creating it, locking it, finding the newest run."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from fggp_deploy.common.files import write_error
from fggp_deploy.errors import ConfigError, command

RUNS = Path("runs")
PRUNED = "pruned.safetensors"
DENSE = "dense.safetensors"
DENSE_MODEL = "parent.safetensors"  # the name that runs have always had
CONFIG = "config.yaml"
SUMMARY = "summary.json"  # written last, so it marks a finished run
RESUME = "resume"  # the savepoints of an unfinished run
REFERENCE = "reference.onnx"
PACKED = "model.onnx"
_LOCK = ".lock"


def new_folder(out: Path | None, name: str) -> Path:
    """Create a run's folder, by default `runs/<time>-<name>`; an existing one must be empty.

    Raises ConfigError if it is not empty, MachineError if it cannot be written.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = out or RUNS / f"{stamp}-{name}"
    try:
        str(folder).encode()  # files of the run contain their own paths
    except UnicodeEncodeError as e:
        raise ConfigError(f"--out {folder} is not UTF-8 text; choose another name") from e
    try:
        if folder.exists() and not (folder.is_dir() and _is_empty(folder)):
            raise ConfigError(f"{folder} exists and is not empty; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise write_error(folder, e) from e
    return folder


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a run's folder; raises ConfigError if another process has locked it."""
    try:
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise write_error(folder, e) from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as e:
        raise ConfigError(
            f"another process is using {folder}; wait until it ends, or choose another --out"
        ) from e
    finally:
        os.close(fd)  # releases the lock, as does any end of the process


def is_running(folder: Path) -> bool:
    """True if a process works on a run in this folder now."""
    try:
        fd = os.open(folder / _LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def remove_leftovers(folder: Path) -> None:
    """Remove files that a killed process left half-written; the caller holds the folder."""
    for place in (folder, folder / RESUME):
        for path in place.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint in a run's folder: pruned, trained, or the newest savepoint.

    Raises ConfigError if there is none.
    """
    for name in (PRUNED, DENSE):
        if (folder / name).is_file():
            return folder / name
    if saved := sorted((folder / RESUME).glob("step-*.safetensors")):
        return saved[-1]
    if is_running(folder):
        raise ConfigError(
            f"the run in {folder} is still running and has no savepoint yet; try later"
        )
    if (folder / CONFIG).is_file():
        raise ConfigError(
            f"the run in {folder} was interrupted before its first savepoint; "
            f"{command('fggp-deploy', 'prune', '--out', folder)} (or train) starts it again"
        )
    raise ConfigError(f"{folder} holds no checkpoint of a run ({PRUNED}, {DENSE})")


def run_of(checkpoint: Path) -> Path:
    """The run's folder that contains a checkpoint or savepoint."""
    return checkpoint.parent.parent if checkpoint.parent.name == RESUME else checkpoint.parent


def dense_model_of(checkpoint: Path) -> Path:
    """The path of the dense model beside a run's checkpoint or savepoint; it may not exist."""
    return run_of(checkpoint) / DENSE_MODEL


def newest(file: str, runs: Path = RUNS) -> Path:
    """The newest file of that name in any run; raises ConfigError if there is none."""
    found = sorted(runs.glob(f"*/{file}"), key=lambda p: p.stat().st_mtime_ns)
    if not found:
        stage = "prune" if file == PRUNED else "export"
        raise ConfigError(
            f"there is no {runs}/*/{file} here; run `fggp-deploy {stage}` or give a path"
        )
    return found[-1]


def packed(path: Path | None, runs: Path = RUNS) -> Path:
    """The exported file that a user means: `path`, or the newest in that folder or in any run.

    Raises ConfigError if there is none.
    """
    if path is not None and (path.suffix == ".csr" or not path.is_dir()):
        return path
    where = runs.glob("*/model*.onnx") if path is None else path.glob("model*.onnx")
    found = [p for p in where if not p.name.endswith(".compiled.onnx")]
    if found:
        return max(found, key=lambda p: p.stat().st_mtime_ns)
    if path is not None:
        raise ConfigError(f"{path} has no {PACKED}; run {command('fggp-deploy', 'export', path)}")
    return newest(PACKED, runs)


def _is_empty(folder: Path) -> bool:
    """True if the folder holds only files that a killed process leaves behind."""
    return all(
        p.name == _LOCK or (p.name[0] == "." and p.suffix == ".tmp") for p in folder.iterdir()
    )
