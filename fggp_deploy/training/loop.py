"""The training loop: forward, loss, backward, the pruner's hooks, and metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from fggp_deploy.training.batches import Batches
from fggp_deploy.training.evaluation import accuracy
from fggp_deploy.training.loss import loss
from fggp_deploy.training.observer import EpochMetrics, Observer, StepMetrics
from fggp_deploy.training.rounding import rounded_weights
from fggp_deploy.training.session import Session, diverged
from fggp_deploy.training.settings import OptimizerSettings

_CHECK_EVERY = {"cpu": 10, "cuda": 50}  # steps between reads of the loss, which wait for a GPU


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.SGD:
    """SGD with Nesterov momentum over all parameters, in one pass over memory (fused)."""
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
        fused=True,
    )


def training_steps(s: Session, observer: Observer) -> Iterator[int]:
    """Train from the session's position to the end of its last epoch; yields after each step.

    A step is complete when it is yielded: the last step of an epoch comes after its validation, so
    the caller may save or copy the session then. Raises TrainingDiverged if the loss is not finite.
    """
    size, at = s.config.batch_size, s.position
    batches, val = s.batches(s.data.train), s.batches(s.data.val)
    forward = training_form(s)
    check_every = _CHECK_EVERY[s.device.type]
    at.loss_sum = at.loss_sum.to(s.device)
    while at.epoch <= s.config.epochs:
        s.generator.set_state(at.order)
        skip = at.step - (at.epoch - 1) * s.steps_per_epoch
        s.model.train()
        start = checked = time.perf_counter()
        checked_at = at.step
        for x, y in batches.shuffled(s.generator, s.augmentation, skip=skip):
            at.step += 1
            value = train_step(s, forward, x, y)
            at.loss_sum += value
            if at.step % check_every == 0 or at.step == 1:
                now = time.perf_counter()
                each = (now - checked) / (at.step - checked_at)
                checked, checked_at = now, at.step
                observer.on_step(
                    StepMetrics(
                        step=at.step,
                        n_steps=s.n_steps,
                        loss=_finite(value, at.step),
                        sparsity=s.pruner.masks.sparsity,
                        images_per_second=size / each,
                        seconds_left=each * (s.n_steps - at.step),
                    )
                )
            at.epoch_seconds += time.perf_counter() - start
            if at.step == at.epoch * s.steps_per_epoch:
                observer.on_epoch(_close_epoch(s, val))
            yield at.step
            start = time.perf_counter()


def training_form(s: Session) -> Callable[[Tensor], Tensor]:
    """The session's network as training calls it: parallel over the ranks, and compiled."""
    model = s.ranks.parallel(s.model)
    return torch.compile(model) if s.config.compile else model


def train_step(s: Session, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """One optimizer step on x [B, C, H, W], y [B]; `s.position.step` is its number.

    `forward` is the session's model in its `training_form`. Returns the detached loss over all
    ranks; all ranks call, each with its share of the batch.
    """
    for group in s.optimizer.param_groups:
        group["lr"] = s.learning_rate
    s.optimizer.zero_grad(set_to_none=True)
    with rounded_weights(s.weights_to_round(s.position.step)):
        with torch.autocast(s.device.type, torch.bfloat16, enabled=s.config.precision == "bf16"):
            logits = forward(x)
            soft = None
            if s.teacher is not None and s.distill:
                with torch.no_grad():
                    soft = s.teacher(x)
        value = loss(
            logits.float(), y, soft, distill=s.distill, label_smoothing=s.config.label_smoothing
        )
        value.backward()  # also averages the gradients over the ranks
    s.pruner.after_backward()
    s.optimizer.step()
    s.pruner.after_step()
    s.average_weights()
    value = value.detach()
    s.ranks.mean_(chain([value], s.model.buffers()))
    return value


def _close_epoch(s: Session, val: Batches) -> EpochMetrics:
    at, masks = s.position, s.pruner.masks
    start = time.perf_counter()
    mean_loss = _finite(at.loss_sum / s.steps_per_epoch, at.step)
    at.epoch_seconds += time.perf_counter() - start  # a GPU may still have been busy
    metrics = EpochMetrics(
        epoch=at.epoch,
        step=at.step,
        loss=mean_loss,
        val_accuracy=accuracy(s.model, val),
        sparsity=masks.sparsity,
        lr=s.optimizer.param_groups[0]["lr"],
        images_per_second=s.steps_per_epoch * s.config.batch_size / at.epoch_seconds,
        seconds=at.epoch_seconds,
        layers={n: k / masks[n].numel() for n, k in masks.removed_by_layer.items()},
        method=s.pruner.metrics(),
    )
    at.next_epoch(s.generator.get_state())
    return metrics


def _finite(value: Tensor, step: int) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise diverged(number, step)
    return number
