"""A run's folder: its files' names, making it, finding the newest, and the log inside it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from fggp_deploy.errors import ConfigError
from fggp_deploy.files import write_atomic, write_error
from fggp_deploy.training.observer import EpochMetrics, Observer

RUNS = Path("runs")
PRUNED = "pruned.safetensors"
DENSE = "dense.safetensors"
PARENT = "parent.safetensors"
INTERRUPTED = "interrupted.safetensors"


def new_folder(out: Path | None, name: str) -> Path:
    """Make a run's folder, by default `runs/<time>-<name>`; an existing one must be empty.

    Raises ConfigError when it is not, MachineError when it cannot be written.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = out or RUNS / f"{stamp}-{name}"
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} exists and is not empty; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise write_error(folder, e) from e
    return folder


def newest(file: str, runs: Path = RUNS) -> Path:
    """The newest run's file of that name; raises ConfigError when there is none."""
    found = sorted(runs.glob(f"*/{file}"), key=lambda p: p.stat().st_mtime_ns)
    if not found:
        stage = "prune" if file == PRUNED else "export"
        raise ConfigError(f"no {runs}/*/{file} here; run `fggp-deploy {stage}` or give a path")
    return found[-1]


class RunLog:
    """Writes metrics.jsonl and TensorBoard events, and passes on to the caller's observer."""

    def __init__(self, folder: Path, observer: Observer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        write_atomic(folder / "metrics.jsonl", "")
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"))
        self._observer = observer

    def on_step(self, step: int, n_steps: int, loss: float, sparsity: float) -> None:
        """Pass on."""
        self._observer.on_step(step, n_steps, loss, sparsity)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Write, then pass on."""
        self._lines.write(json.dumps(asdict(metrics)) + "\n")
        self._lines.flush()
        for key in ("loss", "val_accuracy", "sparsity", "lr", "images_per_second"):
            self._board.add_scalar(key, getattr(metrics, key), metrics.step)
        self._observer.on_epoch(metrics)

    def close(self) -> None:
        """Close both files."""
        self._lines.close()
        self._board.close()
