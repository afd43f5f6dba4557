"""A run's folder: its files' names, making it, finding the newest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from fggp_deploy.errors import ConfigError
from fggp_deploy.files import write_error

RUNS = Path("runs")
PRUNED = "pruned.safetensors"
DENSE = "dense.safetensors"
PARENT = "parent.safetensors"
INTERRUPTED = "interrupted.safetensors"
REFERENCE = "reference.onnx"
PACKED = "model.onnx"


def new_folder(out: Path | None, name: str) -> Path:
    """Make a run's folder, by default `runs/<time>-<name>`; an existing one must be empty.

    Raises ConfigError when it is not, MachineError when it cannot be written.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = out or RUNS / f"{stamp}-{name}"
    try:
        str(folder).encode()  # what is written into the run names its files
    except UnicodeEncodeError as e:
        raise ConfigError(f"--out {folder} is not UTF-8 text; choose another name") from e
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} exists and is not empty; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise write_error(folder, e) from e
    return folder


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint of a run's folder: pruned, trained, or what an interrupted run kept."""
    for name in (PRUNED, DENSE, INTERRUPTED):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{folder} holds no checkpoint of a run ({PRUNED}, {DENSE})")


def newest(file: str, runs: Path = RUNS) -> Path:
    """The newest run's file of that name; raises ConfigError when there is none."""
    found = sorted(runs.glob(f"*/{file}"), key=lambda p: p.stat().st_mtime_ns)
    if not found:
        stage = "prune" if file == PRUNED else "export"
        raise ConfigError(f"no {runs}/*/{file} here; run `fggp-deploy {stage}` or give a path")
    return found[-1]
