"""What a run writes while it goes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from fggp_deploy.files import write_atomic
from fggp_deploy.training.observer import EpochMetrics, Observer


class RunLog:
    """Writes metrics.jsonl and TensorBoard events, and passes on to the caller's observer."""

    def __init__(self, folder: Path, observer: Observer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        write_atomic(folder / "metrics.jsonl", "")
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"))
        self._observer = observer

    def on_data(self, what: str, done: int, total: int) -> None:
        """Pass on."""
        self._observer.on_data(what, done, total)

    def on_start(self, folder: Path, epochs: int, n_steps: int) -> None:
        """Pass on."""
        self._observer.on_start(folder, epochs, n_steps)

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
