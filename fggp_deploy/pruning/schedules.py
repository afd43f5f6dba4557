"""Schedules: sparsity as a function of the optimizer step.

Step t is the t-th optimizer step, counted from 1. Sparsity is the fraction removed, in [0, 1).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

from fggp_deploy.errors import ConfigError


class Schedule(Protocol):
    """When the masks change, and to what sparsity."""

    def sparsity(self, step: int) -> float:
        """Fraction removed after this step, in [0, 1)."""
        ...

    def is_update(self, step: int) -> bool:
        """True if the masks change at this step."""
        ...

    @property
    def last_update(self) -> int:
        """The step of the last mask update; 0 if the masks never change."""
        ...


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"{name} must be in [0, 1), got {value}")


@dataclass(frozen=True)
class Cubic:
    """The cubic schedule of gradual pruning, with exactly `updates` mask updates.

    s_t = target + (start − target)·(1 − (t − begin)/(end − begin))³, updates at
    t_j = begin + round(j·(end − begin)/updates), j = 1…updates. The last update is at `end` and
    reaches the target, however short the run is; updates that would share a step are one update.
    `end` defaults to 0.8·`steps`. Steps are optimizer steps.

    Source: Zhu & Gupta 2017 (arXiv 1710.01878), eq. 1; FGGP's public code uses 50 and 0.8.

    >>> s = Cubic(target=0.9, steps=10, updates=2)
    >>> [t for t in range(1, 11) if s.is_update(t)], s.sparsity(4), s.sparsity(10)
    ([4, 8], 0.7875, 0.9)
    """

    target: float
    steps: int
    start: float = 0.0
    updates: int = 50
    begin: int = 0
    end: int | None = None

    def __post_init__(self) -> None:
        _check_fraction("target", self.target)
        _check_fraction("start", self.start)
        if self.start > self.target:
            raise ConfigError(f"start {self.start} is above target {self.target}")
        if self.updates < 1:
            raise ConfigError(f"updates must be at least 1, got {self.updates}")
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.begin < self.last_update <= self.steps:
            raise ConfigError(
                f"need 0 <= begin < end <= steps, got begin {self.begin}, "
                f"end {self.last_update}, steps {self.steps}"
            )

    @property
    def last_update(self) -> int:
        """The step of the last update, `end`."""
        return max(1, round(0.8 * self.steps)) if self.end is None else self.end

    @cached_property
    def update_steps(self) -> tuple[int, ...]:
        """The steps at which the masks change, increasing."""
        span, n = self.last_update - self.begin, self.updates
        at = {self.begin + (2 * j * span + n) // (2 * n) for j in range(1, n + 1)}
        return tuple(sorted(at - {self.begin}))

    def is_update(self, step: int) -> bool:
        """True if the masks change at this step."""
        at = bisect_right(self.update_steps, step)
        return at > 0 and self.update_steps[at - 1] == step

    def sparsity(self, step: int) -> float:
        """Fraction removed after this step: the curve's value at the latest update."""
        at = bisect_right(self.update_steps, step)
        if at == 0:
            return self.start
        t = self.update_steps[at - 1]
        if t == self.last_update:
            return self.target
        left = 1 - (t - self.begin) / (self.last_update - self.begin)
        return self.target + (self.start - self.target) * left**3


@dataclass(frozen=True)
class Chain:
    """Several schedules in a row; each starts at the sparsity that the previous one reached."""

    parts: tuple[Cubic, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("a chain needs at least one schedule, got none")
        for a, b in pairwise(self.parts):
            if a.target != b.start or a.last_update > b.begin:
                raise ConfigError(
                    f"a schedule to {a.target} until step {a.last_update} cannot be followed by "
                    f"one from {b.start} at step {b.begin}"
                )

    @property
    def last_update(self) -> int:
        """That of the last schedule."""
        return self.parts[-1].last_update

    @property
    def update_steps(self) -> tuple[int, ...]:
        """The steps at which the masks change, increasing."""
        return tuple(t for part in self.parts for t in part.update_steps)

    def is_update(self, step: int) -> bool:
        """True if the masks change at this step."""
        return any(part.is_update(step) for part in self.parts)

    def sparsity(self, step: int) -> float:
        """Fraction removed after this step."""
        begun = [part for part in self.parts if part.begin < step]
        return (begun[-1] if begun else self.parts[0]).sparsity(step)


@dataclass(frozen=True)
class Constant:
    """The masks never change; removed weights stay removed."""

    target: float

    def __post_init__(self) -> None:
        _check_fraction("target", self.target)

    last_update = 0

    def is_update(self, step: int) -> bool:
        """Never."""
        return False

    def sparsity(self, step: int) -> float:
        """Always `target`."""
        return self.target


@dataclass(frozen=True)
class OneShot:
    """All weights are removed at one step."""

    target: float
    at: int = 1
    start: float = 0.0

    def __post_init__(self) -> None:
        _check_fraction("target", self.target)
        _check_fraction("start", self.start)
        if self.at < 1:
            raise ConfigError(f"at must be a step, 1 or later, got {self.at}")

    @property
    def last_update(self) -> int:
        """The step of the only update."""
        return self.at

    def is_update(self, step: int) -> bool:
        """True at that step."""
        return step == self.at

    def sparsity(self, step: int) -> float:
        """`start` before the step, `target` from it on."""
        return self.target if step >= self.at else self.start


@dataclass(frozen=True)
class Cosine:
    """A fraction that falls or rises from `first` to `last` over the run, along half a cosine.

    at(t) = last + (first − last)·(1 + cos(π·t/steps))/2.

    >>> [round(Cosine(0.5, 0.1, steps=4).at(t), 3) for t in (0, 2, 4)]
    [0.5, 0.3, 0.1]
    """

    first: float
    last: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")
        for name in ("first", "last"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)}")

    def at(self, step: int) -> float:
        """The fraction at a step, 0 … steps."""
        return (
            self.last + (self.first - self.last) * (1 + math.cos(math.pi * step / self.steps)) / 2
        )
