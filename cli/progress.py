"""Progress on stderr: a bar on a terminal, otherwise a line per epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fggp_deploy.distributed import environment

from .console import SafeConsole

if TYPE_CHECKING:
    from fggp_deploy.training.observer import EpochMetrics, StepMetrics

_REPORT_EVERY_S = 20.0  # without a terminal
stderr = SafeConsole(stderr=True, highlight=False, emoji=False)


class _Watcher:
    def __init__(self, progress: Progress, beginning: str) -> None:
        self._progress = progress
        self._beginning = beginning
        self._task = progress.add_task("training", total=None, figures="")
        self._val = ""
        self._reported = time.monotonic()

    def on_data(self, what: str, done: int, total: int) -> None:
        self._progress.update(self._task, description=what, completed=done, total=total, figures="")

    def on_start(self, folder: Path, epochs: int, n_steps: int, step: int) -> None:
        self._progress.reset(self._task, description="training")
        where = f"resuming after step {step} in" if step else "writing to"
        if self._beginning and not step:
            stderr.print(self._beginning, markup=False, soft_wrap=True)
        length = f"{epochs} epoch{'s' if epochs != 1 else ''}, {n_steps} steps"
        stderr.print(f"{length if n_steps else 'no training'}; {where} {folder}", markup=False)

    def on_dense_accuracy(self, val_accuracy: float) -> None:
        stderr.print(f"dense model: val {val_accuracy:.2%}")

    def on_step(self, m: StepMetrics) -> None:
        figures = (
            f"loss {m.loss:.3f}  sparsity {m.sparsity:.2%}{self._val}  "
            f"{m.images_per_second:.0f} images/s  {duration(m.seconds_left)} left"
        )
        self._progress.update(self._task, completed=m.step, total=m.n_steps, figures=figures)
        if not stderr.is_terminal and time.monotonic() - self._reported > _REPORT_EVERY_S:
            self._reported = time.monotonic()
            stderr.print(f"step {m.step} of {m.n_steps}  {figures}", soft_wrap=True)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self._val = f"  val {metrics.val_accuracy:.2%}"
        self._progress.update(self._task, completed=metrics.step)
        self._progress.console.print(
            f"epoch {metrics.epoch:3d}  loss {metrics.loss:.4f}  val {metrics.val_accuracy:.2%}  "
            f"sparsity {metrics.sparsity:.2%}  {metrics.images_per_second:.0f} images/s"
        )


@contextlib.contextmanager
def watch(beginning: str = "") -> Iterator[_Watcher]:
    """An observer of a training run; `beginning` is the first line for a new run."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )  # fmt: skip
    hidden = not stderr.is_terminal or environment.rank() > 0
    with Progress(*columns, console=stderr, disable=hidden) as progress:
        yield _Watcher(progress, beginning)


@contextlib.contextmanager
def working(
    what: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for the named parts of a longer job; call it with (part, done, total).

    Without a terminal it prints a line when a part begins and then one every 20 seconds.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        reported: dict[str, float] = {}

        def update(part: str, done: int, total: int) -> None:
            if not stderr.is_terminal and part not in reported:
                reported[part] = clock()
                stderr.print(f"{what}: {part}", markup=False)
            elif not stderr.is_terminal and clock() - reported[part] > _REPORT_EVERY_S:
                reported[part] = clock()
                stderr.print(f"{what}: {part}, {done:,} of {total:,}", markup=False)
            progress.update(task, description=f"{what}: {part}", completed=done, total=total)

        yield update


def duration(seconds: float) -> str:
    """A duration as text.

    >>> duration(42), duration(75), duration(3700)
    ('42 s', '1 min', '1 h 01')
    """
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d}"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
