"""The training session: everything in memory that a step touches and a savepoint keeps."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fggp_deploy.data.types import Dataset, Part
from fggp_deploy.distributed.ranks import ALONE, Ranks
from fggp_deploy.errors import TrainingDiverged
from fggp_deploy.pruning.methods.method import InRounds, Late
from fggp_deploy.pruning.pruner import Pruner, weight_parameters
from fggp_deploy.training.augment import Augmentation
from fggp_deploy.training.average import Average
from fggp_deploy.training.batches import Batches, n_training_batches, open_batches
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.stages import Stage, learning_rate, stage_at, stages


@dataclass
class Position:
    """How far a run is: steps done, the current epoch, and the sums of that epoch.

    `order`: the generator's state at the start of the epoch, from which its batches can be drawn
    again. `seconds`: of training, including those before the run was interrupted.
    """

    order: Tensor
    step: int = 0
    epoch: int = 1
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    epoch_seconds: float = 0.0
    seconds: float = 0.0

    def next_epoch(self, order: Tensor) -> None:
        """Begin the next epoch."""
        self.epoch, self.order, self.epoch_seconds = self.epoch + 1, order, 0.0
        self.loss_sum = torch.zeros_like(self.loss_sum)


@dataclass
class Session:
    """A run in memory, on its device.

    `teacher`: the dense model, None if there is none; `distill`: the weight of its soft labels in
    the loss. `int8_aware`: compute with rounded weights in the fine-tuning phase. `average`: of the
    parameters, once averaging has begun. `ranks`: the processes that share the run; all of them
    hold the same network after each step.
    """

    model: nn.Module
    data: Dataset
    config: TrainConfig
    pruner: Pruner
    optimizer: torch.optim.Optimizer
    device: torch.device
    teacher: nn.Module | None = None
    distill: float = 0.0
    int8_aware: bool = False
    average: Average | None = None
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.position = Position(order=self.generator.get_state())

    @cached_property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return n_training_batches(self.data, self.config.batch_size)

    @cached_property
    def n_steps(self) -> int:
        """Optimizer steps in the run."""
        return self.config.epochs * self.steps_per_epoch

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the run, one per target."""
        return stages(self.config.targets, self.n_steps, prunes=self.config.prunes)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the current step."""
        step, stage = self.position.step, stage_at(self.stages, self.position.step)
        if isinstance(self.pruner.method, InRounds):
            step, end = self.pruner.method.cycle(step)
            stage = replace(stage, begin=0, end=end)
        return learning_rate(self.config, stage, step, self.steps_per_epoch)

    @property
    def augmentation(self) -> Augmentation:
        """How training changes its images."""
        return Augmentation(self.data.augment, self.data.flip, self.data.crop_padding)

    def batches(self, part: Part) -> Batches:
        """Batches of one part of the data, on the device."""
        return open_batches(
            part, self.data.preprocessing, batch_size=self.config.batch_size, device=self.device,
            workers=self.config.workers, ranks=self.ranks,
        )  # fmt: skip

    def weights_to_round(self, step: int) -> list[Tensor]:
        """The weights that this step rounds to int8: all in the fine-tuning phase, else none."""
        if not self.int8_aware:
            return []
        last_update, method = stage_at(self.stages, step).last_update, self.pruner.method
        if isinstance(method, Late):
            last_update = max(last_update, method.last_update)
        if step <= last_update:
            return []
        return list(weight_parameters(self.model).values())

    def average_weights(self) -> None:
        """Add the current weights to the average, which begins after the last mask update."""
        stage, config = stage_at(self.stages, self.position.step), self.config
        begins = max(stage.last_update, self.pruner.changed_at)
        if config.average_epochs:
            begins = max(begins, stage.end - round(config.average_epochs * self.steps_per_epoch))
        if not (config.ema or config.average_epochs) or self.position.step <= begins:
            self.average = None
            return
        now = dict(self.model.named_parameters())
        if self.average is None:
            self.average = Average.begin(now, spread=config.ensemble > 0)
        else:
            self.average.take(now, decay=config.ema)

    def check_finite(self) -> None:
        """Raise TrainingDiverged if a weight or a statistic is NaN or infinite."""
        floats = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        if not bool(torch.stack([t.isfinite().all() for t in floats]).all()):
            raise diverged(float("nan"), self.position.step)

    def state_dict(self) -> dict[str, Any]:
        """Everything except the model's state, as tensors and plain JSON types; all ranks call."""
        random, *of_others = self.ranks.gather(_random_state(self.device))
        return {
            "position": vars(self.position).copy(),
            "pruner": self.pruner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "random": random,
            "random_of_other_ranks": of_others,
        }

    def load_state_dict(self, model: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, and the model's state of the same step.

        Raises KeyError, TypeError, ValueError or AttributeError for a state that does not fit.
        """
        _check_fits(self.model, model)
        self.model.load_state_dict(dict(model))
        self.position = Position(**state["position"])
        self.pruner.load_state_dict(state["pruner"])
        _load_optimizer(self.optimizer, state["optimizer"])
        average, params = state["average"], dict(self.model.named_parameters())
        self.average = Average.of_state(average, params) if average is not None else None
        random = [state["random"], *state.get("random_of_other_ranks", [])]
        _set_random_state(random[self.ranks.rank], self.device)


def diverged(loss: float, step: int) -> TrainingDiverged:
    """The error for a loss or a weight that is not finite."""
    return TrainingDiverged(
        f"the loss is {loss} near step {step}; try a lower --lr, a longer --warmup-epochs, "
        f"or --precision fp32"
    )


def _check_fits(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the state has the model's names and shapes.

    Loading would raise a RuntimeError, and a device without memory or at fault raises that too.
    """
    ours = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    theirs = {n: tuple(t.shape) for n, t in state.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"{name} is {theirs.get(name, 'missing')} in the file and "
                f"{ours.get(name, 'missing')} in the network"
            )


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the state, with its tensors in the memory layout of their parameters.

    The layout decides which loops run over them, and thereby the last bits of the results.
    """
    by_index = {int(index): dict(values) for index, values in state["state"].items()}
    optimizer.load_state_dict({"state": by_index, "param_groups": state["param_groups"]})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _random_state(device: torch.device) -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": [version, torch.tensor(internal), gauss],
    }


def _set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    try:
        torch.set_rng_state(state["torch"])
    except RuntimeError as e:  # it has another size
        raise ValueError(str(e)) from e
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
