"""The stages of a run: one per target, each with mask updates and a fine-tuning phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.schedules import Chain, Constant, Cubic, Schedule
from fggp_deploy.training.settings import OptimizerSettings

UPDATE_SHARE = 0.8  # masks change in this first part of a pruning stage


@dataclass(frozen=True)
class Stage:
    """Steps begin + 1 … end of a run, with one cycle of the learning rate.

    `last_update`: the step of the last mask update, after which the fine-tuning phase begins.
    """

    target: float
    begin: int
    last_update: int
    end: int


def stages(targets: Sequence[float], n_steps: int, *, prunes: bool) -> tuple[Stage, ...]:
    """Divide `n_steps` into equal stages, one per target.

    `prunes`: masks change in the first 80% of each stage. Raises ConfigError if there are more
    targets than steps, unless there are no steps at all.
    """
    n = len(targets)
    if n > n_steps > 0:
        raise ConfigError(
            f"{n} targets need at least {n} training steps, but the run has {n_steps}; give more "
            "--epochs"
        )
    ends = [round(i * n_steps / n) for i in range(n + 1)]
    return tuple(
        Stage(t, a, a + (max(1, round(UPDATE_SHARE * (b - a))) if prunes and b > a else 0), b)
        for t, a, b in zip(targets, ends[:-1], ends[1:], strict=True)
    )


def pruning_schedule(stages: Sequence[Stage], *, start: float, updates: int) -> Schedule:
    """Cubic in each stage, from the sparsity that the stage before reached; `start` is the first.

    A stage whose target is reached already changes nothing. Without steps the schedule is constant.
    """
    if stages[-1].end == 0:
        return Constant(stages[-1].target)
    cubics: list[Cubic] = []
    for stage in stages:
        cubics.append(
            Cubic(
                stage.target, steps=stage.end, start=start, updates=updates,
                begin=stage.begin, end=stage.last_update,
            )
        )  # fmt: skip
        start = stage.target
    return cubics[0] if len(cubics) == 1 else Chain(tuple(cubics))


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """The stage to which step t = 1…T belongs."""
    return next(s for s in stages if step <= s.end)


def learning_rate(
    settings: OptimizerSettings, stage: Stage, step: int, steps_per_epoch: int
) -> float:
    """Learning rate of step t = 1…T, which lies in `stage`."""
    n_steps, step = stage.end - stage.begin, step - stage.begin
    warmup = min(settings.warmup_epochs * steps_per_epoch, n_steps / 5)
    if step <= warmup:
        return settings.lr * step / warmup
    done = (step - 1) / n_steps
    if settings.lr_schedule == "step":
        return settings.lr * (1 if done < 0.5 else 0.1 if done < 0.75 else 0.01)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))
