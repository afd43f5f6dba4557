"""What a benchmark measures, and for how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fggp_deploy.common.option_rules import check_counts
from fggp_deploy.errors import ConfigError
from fggp_deploy.measure.latency import MIN_SESSIONS, N_SESSIONS


@dataclass(frozen=True)
class BenchOptions:
    """The options of a benchmark, checked when they are made.

    Every pair of `threads` and `batches` is a setting, which gets `seconds` of measurement in
    `sessions` fresh sessions of each contender. `int8`: also the dense int8 baseline. `layers`:
    also the time per layer. `shape` gives the dimensions of the input after the first that the
    model leaves open. `data` is the data set whose images calibrate int8 and are scored, by default
    the one that the file names; `data_dir` is where it lies. Raises ConfigError.
    """

    threads: Sequence[int] = (1,)
    batches: Sequence[int] = (1,)
    int8: bool = True
    layers: bool = False
    shape: tuple[int, ...] | None = None
    data: str | None = None
    data_dir: Path | None = None
    seconds: float = 6.0
    sessions: int = N_SESSIONS
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(threads=self.threads, batch=self.batches)
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ConfigError(f"seconds must be positive and finite, got {self.seconds}")
        if self.sessions < MIN_SESSIONS or self.seed < 0:
            raise ConfigError(
                f"sessions must be at least {MIN_SESSIONS} and seed not negative, "
                f"got {self.sessions} and {self.seed}"
            )
        if self.shape is not None and not all(n > 0 for n in self.shape):
            raise ConfigError(
                f"shape must be positive numbers, got {','.join(map(str, self.shape))}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The options as the provenance of a report records them."""
        return {
            "threads": list(self.threads),
            "batch": list(self.batches),
            "seconds": self.seconds,
            "seed": self.seed,
            "sessions": self.sessions,
        }
