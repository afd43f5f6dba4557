"""The metrics that a run writes during training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from fggp_deploy.common.files import write_atomic, writing
from fggp_deploy.training.observer import EpochMetrics, Observer, StepMetrics


class RunLog:
    """An observer that writes metrics.jsonl and TensorBoard events, and forwards to another.

    `step`: the step from which an interrupted run resumes; what was written after it is removed.
    """

    def __init__(self, folder: Path, observer: Observer, *, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        path = folder / "metrics.jsonl"
        write_atomic(path, "".join(_lines_up_to(path, step)))
        self._lines = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=step + 1 if step else None
        )
        self._observer = observer

    def on_data(self, what: str, done: int, total: int) -> None:
        """Forward."""
        self._observer.on_data(what, done, total)

    def on_start(self, folder: Path, epochs: int, n_steps: int, step: int) -> None:
        """Forward."""
        self._observer.on_start(folder, epochs, n_steps, step)

    def on_dense_accuracy(self, val_accuracy: float) -> None:
        """Forward."""
        self._observer.on_dense_accuracy(val_accuracy)

    def on_step(self, metrics: StepMetrics) -> None:
        """Forward."""
        self._observer.on_step(metrics)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Write, then forward."""
        with writing(self._folder):
            self._write(metrics)
        self._observer.on_epoch(metrics)

    def close(self) -> None:
        """Close both files."""
        with writing(self._folder):
            self._lines.close()
            self._board.close()

    def _write(self, metrics: EpochMetrics) -> None:
        self._lines.write(json.dumps(asdict(metrics)) + "\n")
        self._lines.flush()
        for key in ("loss", "val_accuracy", "sparsity", "lr", "images_per_second"):
            self._board.add_scalar(key, getattr(metrics, key), metrics.step)
        for name, sparsity in metrics.layers.items():
            self._board.add_scalar(f"sparsity_of/{name}", sparsity, metrics.step)
        for measure, layers in metrics.method.items():
            for name, value in layers.items():
                self._board.add_scalar(f"{measure}_of/{name}", value, metrics.step)


def _lines_up_to(path: Path, step: int) -> list[str]:
    """The complete lines that an earlier process wrote up to that step."""
    kept = []
    if step and path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
    return kept
