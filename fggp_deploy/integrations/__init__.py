"""Callbacks for other training frameworks: one file and one optional extra per framework."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fggp_deploy.errors import ConfigError, FggpWarning
from fggp_deploy.pruning.allocation import GLOBAL, MIN_LAYER_DENSITY
from fggp_deploy.pruning.criteria import Criterion
from fggp_deploy.pruning.methods.fggp import FGGP
from fggp_deploy.pruning.pruner import Pruner, initial_masks
from fggp_deploy.pruning.schedules import Cubic


@dataclass(frozen=True)
class Pruning:
    """The options of a callback; everything else is known when training begins.

    `target`: the fraction of the prunable weights to remove, in (0, 1), on the cubic schedule in
    `updates` mask updates over the first 80% of the training steps. `pattern`, `allocation`,
    `min_layer_density` and `also`: see Pruner. `prune_first`, `keep_dense`: see
    prunable.prunable_parameters.
    """

    target: float
    criterion: Criterion = field(default_factory=FGGP)
    updates: int = 50
    pattern: str | None = None
    allocation: str = GLOBAL
    min_layer_density: float = MIN_LAYER_DENSITY
    prune_first: bool = False
    keep_dense: tuple[str, ...] = ()
    also: Sequence[nn.Module] = ()

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: float,
        state: Mapping[str, Any] | None = None,
    ) -> Pruner:
        """A Pruner for training of `steps` optimizer steps, resumed if there is a `state`.

        Raises ConfigError if the number of steps is not known in advance.
        """
        if not (math.isfinite(steps) and steps > 0):
            raise ConfigError(
                "the pruning schedule needs the number of training steps; set the trainer's number "
                "of epochs or steps"
            )
        of: dict[str, Any] = {"prune_first": self.prune_first, "keep_dense": self.keep_dense}
        start = initial_masks(model, **of).sparsity if state is None else float(state["start"])
        schedule = Cubic(
            self.target, steps=int(steps), start=min(start, self.target), updates=self.updates
        )
        pruner = Pruner(
            model,
            self.criterion,
            schedule,
            optimizer=optimizer,
            pattern=self.pattern,
            allocation=self.allocation,
            min_layer_density=self.min_layer_density,
            also=self.also,
            **of,
        )
        if state is not None:
            pruner.load_state_dict(state)
        return pruner


def state_of(pruner: Pruner) -> dict[str, Any]:
    """What a checkpoint must hold to resume: tensors and plain types."""
    return {"start": pruner.method.schedule.start, **pruner.state_dict()}  # type: ignore[attr-defined]


def finish(pruner: Pruner) -> None:
    """Apply the final masks; warn if training ended before the schedule did."""
    try:
        pruner.finish()
    except ConfigError as e:
        warnings.warn(str(e), FggpWarning, stacklevel=3)
