"""The options of a training run, checked when made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fggp_deploy.allocation import ALLOCATIONS
from fggp_deploy.errors import ConfigError, UnknownName

PRESETS = ("none", "basic", "strong")  # of augmentation
PRECISIONS = ("fp32", "bf16")
LR_SCHEDULES = ("cosine", "step")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train: SGD with Nesterov momentum, one cycle of the learning rate, a seed.

    `lr_schedule`: cosine to zero, or ×0.1 at 50% and 75% of the run; both after `warmup_epochs`
    of linear growth. `checkpoint`: a file to start from. `weights`: those that torchvision or timm
    publish, or a file. `new_head`: a last layer of another number of classes starts at random.
    `trust_code`: run the user's own Python files. `device`: auto, cpu, cuda, cuda:N. `mean`,
    `std`: preprocessing of a checkpoint trained elsewhere, in place of the data set's own.
    `augment`: none, basic, strong; `flip`: whether mirror images keep their label, None for what
    the data set says. The other options on data are those of data.Reading.
    `sparsity` > 0 trains from a random mask of that sparsity, fixed, by `allocation`.
    """

    model: str = "resnet10s2"
    checkpoint: Path | None = None
    weights: str | None = None
    new_head: bool = False
    trust_code: bool = False
    data: str = "fashion-mnist-12k"
    data_dir: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    resize: int | None = None
    augment: str = "basic"
    flip: bool | None = None
    stream: bool | None = None
    workers: int | None = None
    skip_unreadable: bool = False
    split_seed: int = 0
    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    lr_schedule: str = "cosine"
    warmup_epochs: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    sparsity: float = 0.0
    allocation: str = "erk"
    prune_first: bool = False
    keep_dense: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _at_least("epochs", self.epochs, 1)
        _at_least("batch-size", self.batch_size, 2)
        for name in ("lr", "weight_decay", "momentum", "warmup_epochs"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 0, got {value}")
        if self.lr == 0:
            raise ConfigError("--lr must be above 0")
        if self.momentum >= 1:
            raise ConfigError(f"--momentum must be below 1, got {self.momentum}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed must be in [0, 2^63), got {self.seed}")
        if not 0 <= self.sparsity < 1:
            raise ConfigError(f"--sparsity must be in [0, 1), got {self.sparsity}")
        if self.checkpoint is not None and self.weights is not None:
            raise ConfigError("--checkpoint and --weights are two names of one thing; give one")
        if (self.mean is None) != (self.std is None):
            raise ConfigError("--mean and --std go together")
        _known("augment", self.augment, PRESETS)
        if self.workers is not None:
            _at_least("workers", self.workers, 0)
        _known("precision", self.precision, PRECISIONS)
        _known("lr-schedule", self.lr_schedule, LR_SCHEDULES)
        _known("allocation", self.allocation, ALLOCATIONS)

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML and JSON types."""
        return {
            k: _text(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
            for k, v in asdict(self).items()
        }


@dataclass(frozen=True, kw_only=True)
class PruneConfig(TrainConfig):
    """How to prune a trained network while fine-tuning it.

    `target`: fraction of the prunable weights to remove. Without checkpoint and weights, the
    network that the package ships. `updates`, `rate`: see Cubic and FGGP. `distill`: weight of
    the parent's soft labels in the loss, 0 to 1 (Hinton et al. 2015, arXiv 1503.02531,
    temperature 2).
    """

    target: float = 0.98
    method: str = "fggp"
    updates: int = 50
    rate: float = 0.5
    distill: float = 0.9
    epochs: int = 10
    lr: float = 0.05
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.target < 1:
            raise ConfigError(
                f"--target must be in (0, 1), got {self.target}; 0.98 means 98% of weights removed"
            )
        if not 0 <= self.distill <= 1:
            raise ConfigError(f"--distill must be in [0, 1], got {self.distill}")
        _at_least("updates", self.updates, 1)


def _text(path: Path) -> str:
    return str(path).encode(errors="backslashreplace").decode()  # a name may be no UTF-8


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"--{name} must be at least {least}, got {value}")


def _known(kind: str, value: str, known: tuple[str, ...] | Mapping[str, Any]) -> None:
    if value not in known:
        raise UnknownName(kind, value, known)
