"""What a verification measures, and for how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from fggp_deploy.common.option_rules import check_counts
from fggp_deploy.errors import ConfigError, UnknownName
from fggp_deploy.measure.machine import default_threads
from fggp_deploy.measure.robustness import EXTENTS


@dataclass(frozen=True)
class VerifyOptions:
    """The options of a verification, checked when they are made.

    Latency is measured at every pair of `threads` (None: the number of physical cores, and 1) and
    `batches`. The gates judge the first pair, which gets `seconds` of measurement; everything else
    is measured with its threads and batch too. `seed` draws the probe inputs, the samples of
    images, and the order of the timed runs. `robustness` is None, "quick" or "full"; `corruptions`
    is a folder like CIFAR-10-C, whose images it then uses in place of generated ones. `int8`: also
    measure the dense int8 baseline. `check_preprocessing`: fail a file whose test images score
    better with different preprocessing.

    Raises ConfigError for a value outside its range, UnknownName for another `robustness`.
    """

    threads: Sequence[int] | None = None
    batches: Sequence[int] = (1, 8)
    seconds: float = 10.0
    seed: int = 0
    robustness: str | None = None
    corruptions: Path | None = None
    int8: bool = True
    check_preprocessing: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None:
            check_counts(threads=self.threads)
        check_counts(batch=self.batches)
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ConfigError(f"seconds must be positive and finite, got {self.seconds}")
        if self.robustness is not None and self.robustness not in EXTENTS:
            raise UnknownName("robustness", self.robustness, EXTENTS)
        if self.corruptions is not None and self.robustness is None:
            raise ConfigError("--corruptions is for --robustness; add --robustness quick or full")
        if self.corruptions is not None and not self.corruptions.is_dir():
            raise ConfigError(
                f"--corruptions {self.corruptions} is not a folder; give one like CIFAR-10-C"
            )

    @property
    def settings(self) -> list[tuple[int, int]]:
        """Distinct pairs of threads and batch; the first is the one that the gates judge."""
        threads = (default_threads(), 1) if self.threads is None else self.threads
        return list(dict.fromkeys(product(threads, self.batches)))

    @property
    def judged_setting(self) -> tuple[int, int]:
        """The threads and the batch for which the gates judge latency."""
        return self.settings[0]

    def to_dict(self) -> dict[str, Any]:
        """The options as the provenance of a report records them."""
        return {
            "settings": [list(s) for s in self.settings],
            "seconds": self.seconds,
            "seed": self.seed,
            "robustness": self.robustness,
            "corruptions": None if self.corruptions is None else str(self.corruptions),
            "int8": self.int8,
            "check_preprocessing": self.check_preprocessing,
        }
