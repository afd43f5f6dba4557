"""A run's targets in time: a stage a target, each with its pruning and its settling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.schedules import Chain, Constant, Cubic, Schedule
from fggp_deploy.training.config import PruneConfig, TrainConfig


@dataclass(frozen=True)
class Stage:
    """Steps begin + 1 … end of a run, with one cycle of the learning rate.

    `settled`: the step of the last mask update; from there on the network only trains.
    """

    target: float
    begin: int
    settled: int
    end: int


def stages(config: TrainConfig, n_steps: int) -> tuple[Stage, ...]:
    """Cut `n_steps` into equal stages, one a target; masks change in the first 80% of each.

    Raises ConfigError when there are more targets than steps, unless there are no steps at all.
    """
    n = len(config.targets)
    if n > n_steps > 0:
        raise ConfigError(f"{n} targets need at least {n} steps, there are {n_steps}; add --epochs")
    ends = [round(i * n_steps / n) for i in range(n + 1)]
    prunes = isinstance(config, PruneConfig)
    return tuple(
        Stage(t, a, a + (max(1, round(0.8 * (b - a))) if prunes and b > a else 0), b)
        for t, a, b in zip(config.targets, ends[:-1], ends[1:], strict=True)
    )


def pruning_schedule(parts: Sequence[Stage], *, start: float, updates: int) -> Schedule:
    """Cubic in each stage, from what the one before reached; `start` is what the run begins with.

    A stage whose target is met already changes nothing. Without a step, nothing ever changes.
    """
    if parts[-1].end == 0:
        return Constant(parts[-1].target)
    cubics: list[Cubic] = []
    for stage in parts:
        cubics.append(
            Cubic(
                stage.target, steps=stage.end, start=start, updates=updates,
                begin=stage.begin, end=stage.settled,
            )
        )  # fmt: skip
        start = stage.target
    return cubics[0] if len(cubics) == 1 else Chain(tuple(cubics))


def stage_at(parts: Sequence[Stage], step: int) -> Stage:
    """The stage that step t = 1…T belongs to."""
    return next(s for s in parts if step <= s.end)


def learning_rate(config: TrainConfig, stage: Stage, step: int, steps_per_epoch: int) -> float:
    """Learning rate of step t = 1…T, which lies in `stage`."""
    n_steps, step = stage.end - stage.begin, step - stage.begin
    warmup = min(config.warmup_epochs * steps_per_epoch, n_steps / 5)
    if step <= warmup:
        return config.lr * step / warmup
    done = (step - 1) / n_steps
    if config.lr_schedule == "step":
        return config.lr * (1 if done < 0.5 else 0.1 if done < 0.75 else 0.01)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))
