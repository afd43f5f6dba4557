"""The epoch loop: forward, loss, backward, pruner's hooks, and what is worth recording."""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import ConfigError, MachineError, TrainingDiverged
from fggp_deploy.pruner import Pruner
from fggp_deploy.training.augment import Augmentation
from fggp_deploy.training.batches import Batches, n_training_batches, open_batches
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.observer import EpochMetrics, Observer

TEMPERATURE = 2.0  # of distillation
_CHECK_EVERY = {"cpu": 10, "cuda": 50}  # steps between looks at the loss; each waits for a GPU


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; raises MachineError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}") from e
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here; "
            f"use --device cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    return device


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of step t = 1…T."""
    n_steps = config.epochs * steps_per_epoch
    warmup = min(config.warmup_epochs * steps_per_epoch, n_steps / 5)
    if step <= warmup:
        return config.lr * step / warmup
    done = (step - 1) / n_steps
    if config.lr_schedule == "step":
        return config.lr * (1 if done < 0.5 else 0.1 if done < 0.75 else 0.01)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with Nesterov momentum over all parameters."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )


def fit(
    model: nn.Module,
    data: Dataset,
    config: TrainConfig,
    *,
    optimizer: torch.optim.Optimizer,
    pruner: Pruner,
    device: torch.device,
    observer: Observer,
    teacher: nn.Module | None = None,
    distill: float = 0.0,
) -> EpochMetrics:
    """Train for `config.epochs`; returns the last epoch's metrics.

    `model` is on `device` already. With `teacher`, the loss is (1 − distill)·cross-entropy +
    distill·KL to its softened outputs. Raises TrainingDiverged when the loss is not finite.
    """
    size = config.batch_size
    per_epoch = n_training_batches(data, size)
    batches, val = (
        open_batches(
            part, data.preprocessing, batch_size=size, device=device, workers=config.workers
        )
        for part in (data.train, data.val)
    )
    augmentation = Augmentation(data.augment, data.flip, data.crop_padding)
    generator = torch.Generator().manual_seed(config.seed)
    n_steps = per_epoch * config.epochs
    step = 0
    for epoch in range(1, config.epochs + 1):
        start = time.perf_counter()
        total = torch.zeros((), device=device)
        model.train()
        for x, y in batches.shuffled(generator, augmentation):
            step += 1
            lr = learning_rate(config, step, per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                logits = model(x)
                soft = teacher(x) if teacher is not None else None
            loss = _loss(logits.float(), y, soft, distill)
            loss.backward()
            pruner.after_backward()
            optimizer.step()
            pruner.after_step()
            total += loss.detach()
            if step % _CHECK_EVERY[device.type] == 0 or step == 1:
                observer.on_step(step, n_steps, _finite(loss, step), pruner.masks.sparsity)
        seconds = time.perf_counter() - start
        metrics = EpochMetrics(
            epoch=epoch,
            step=step,
            loss=_finite(total / per_epoch, step),
            val_accuracy=accuracy(model, val),
            sparsity=pruner.masks.sparsity,
            lr=lr,
            images_per_second=per_epoch * size / seconds,
            seconds=seconds,
        )
        observer.on_epoch(metrics)
    return metrics


@torch.no_grad()
def accuracy(model: nn.Module, batches: Batches) -> float:
    """Top-1 accuracy, 0 to 1."""
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=batches.labels.device)
    for x, y in batches.in_order():
        right += (model(x).argmax(1) == y).sum()
    return int(right) / len(batches.labels)


def _loss(logits: Tensor, y: Tensor, soft: Tensor | None, distill: float) -> Tensor:
    hard = F.cross_entropy(logits, y)
    if soft is None:
        return hard
    target = (soft.detach().float() / TEMPERATURE).softmax(1)
    kl = F.kl_div((logits / TEMPERATURE).log_softmax(1), target, reduction="batchmean")
    return (1 - distill) * hard + distill * TEMPERATURE**2 * kl


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"the loss is {value} near step {step}; try a lower --lr, a longer --warmup-epochs, "
            f"or --precision fp32"
        )
    return value
