"""The progress that a run reports, and the protocol of those who watch it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StepMetrics:
    """How far a run is; `images_per_second` and `seconds_left` are from its latest steps."""

    step: int
    n_steps: int
    loss: float
    sparsity: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch, as metrics.jsonl has it. `layers`: sparsity of each prunable parameter.

    `method`: the method's own measures: name → parameter → value; empty for most methods.
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
    """Something that watches a run, such as a progress bar or a log."""

    def on_data(self, what: str, done: int, total: int) -> None:
        """Called while images are checked or decoded, before everything else."""
        ...

    def on_start(self, folder: Path, epochs: int, n_steps: int, step: int) -> None:
        """Called once, before the first step; a resumed run has done `step` steps already."""
        ...

    def on_dense_accuracy(self, val_accuracy: float) -> None:
        """Called once at the start of a new run with a dense model: its accuracy, 0 to 1."""
        ...

    def on_step(self, metrics: StepMetrics) -> None:
        """Called every few steps."""
        ...

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Called after each epoch."""
        ...


class Silent:
    """An observer that does nothing."""

    def on_data(self, what: str, done: int, total: int) -> None:
        """Do nothing."""

    def on_start(self, folder: Path, epochs: int, n_steps: int, step: int) -> None:
        """Do nothing."""

    def on_dense_accuracy(self, val_accuracy: float) -> None:
        """Do nothing."""

    def on_step(self, metrics: StepMetrics) -> None:
        """Do nothing."""

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Do nothing."""


SILENT: Observer = Silent()
