"""What a run tells while it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch, as it goes to metrics.jsonl."""

    epoch: int
    step: int
    loss: float
    val_accuracy: float
    sparsity: float
    lr: float
    images_per_second: float
    seconds: float


class Observer(Protocol):
    """Who watches a run: the progress bar, a log."""

    def on_data(self, what: str, done: int, total: int) -> None:
        """While images are checked or decoded, before anything else."""
        ...

    def on_start(self, folder: Path, epochs: int, n_steps: int) -> None:
        """Once, before the first step."""
        ...

    def on_step(self, step: int, n_steps: int, loss: float, sparsity: float) -> None:
        """Every few steps."""
        ...

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """After each epoch."""
        ...
