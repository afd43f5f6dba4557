"""What a run tells while it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StepMetrics:
    """How far a run is. `images_per_second`, `seconds_left`: from the steps since the last one."""

    step: int
    n_steps: int
    loss: float
    sparsity: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch, as it goes to metrics.jsonl. `layers`: sparsity of each prunable parameter.

    `method`: what the method measures, by name, and there by parameter; empty for most.
    """

    epoch: int
    step: int
    loss: float
    val_accuracy: float
    sparsity: float
    lr: float
    images_per_second: float
    seconds: float
    layers: Mapping[str, float]
    method: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Observer(Protocol):
    """Who watches a run: the progress bar, a log."""

    def on_data(self, what: str, done: int, total: int) -> None:
        """While images are checked or decoded, before anything else."""
        ...

    def on_start(self, folder: Path, epochs: int, n_steps: int, step: int) -> None:
        """Once, before the first step; `step` steps were done before, by a run that was cut."""
        ...

    def on_dense_accuracy(self, val_accuracy: float) -> None:
        """Once, before the first step of a run that has a parent: its accuracy, 0 to 1."""
        ...

    def on_step(self, metrics: StepMetrics) -> None:
        """Every few steps."""
        ...

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """After each epoch."""
        ...


class Silent:
    """An observer that says nothing."""

    def on_data(self, what: str, done: int, total: int) -> None:
        """Say nothing."""

    def on_start(self, folder: Path, epochs: int, n_steps: int, step: int) -> None:
        """Say nothing."""

    def on_dense_accuracy(self, val_accuracy: float) -> None:
        """Say nothing."""

    def on_step(self, metrics: StepMetrics) -> None:
        """Say nothing."""

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Say nothing."""


SILENT: Observer = Silent()
