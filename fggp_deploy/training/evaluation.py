"""Accuracy of the networks of a run, and warnings about results that look wrong."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import nn

from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import FggpWarning
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.training.batches import Batches
from fggp_deploy.training.session import Session

_ABOVE_CHANCE = 0.1  # of the way from chance to 1; a dense model below that is suspicious


@torch.no_grad()
def accuracy(model: nn.Module, batches: Batches) -> float:
    """Top-1 accuracy, 0 to 1, over the images of all ranks; all ranks call."""
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=batches.labels.device)
    for x, y in batches.in_order():
        right += (model(x).argmax(1) == y).sum()
    return int(batches.ranks.total(right)) / len(batches.labels)


def dense_accuracy(s: Session) -> float | None:
    """Top-1 accuracy of the dense model on the validation images, 0 to 1; None without one.

    Warns if it is near chance, which usually means that the images are normalized differently from
    those that it was trained with. All ranks call.
    """
    if s.teacher is None:
        return None
    found = accuracy(s.teacher, s.batches(s.data.val))
    chance = 1 / len(s.data.classes)
    if found < chance + _ABOVE_CHANCE * (1 - chance):
        p = s.data.preprocessing
        warnings.warn(
            f"the dense model has a validation accuracy of {found:.1%}, and guessing has "
            f"{chance:.1%}: check whether it was trained with --mean {_numbers(p.mean)} --std "
            f"{_numbers(p.std)}, this image size and this order of the classes",
            FggpWarning,
            stacklevel=2,
        )
    return found


def warn_if_missed(target: float, masks: MaskSet) -> None:
    """Warn if a method did not reach its target, as can happen with filters and blocks."""
    if masks.n_removed < round((target - 1e-4) * masks.n_total):
        warnings.warn(
            f"{masks.sparsity:.2%} of the weights are removed, not {target:.2%}: the method could "
            "not remove more",
            FggpWarning,
            stacklevel=2,
        )


def warn_if_guessing(test_accuracy: float, data: Dataset) -> None:
    """Warn if a network is no better than always predicting the test images' most frequent class.

    Within two standard errors of that, because a few test images show little.
    """
    n = len(data.test)
    share = float(np.bincount(data.test.labels).max()) / n
    if test_accuracy <= share + 2 * math.sqrt(share * (1 - share) / n):
        warnings.warn(
            f"the result is no better than guessing: its test accuracy on {data.name} is "
            f"{test_accuracy:.1%}, and always predicting the most frequent class gives {share:.1%} "
            f"(n = {n:,}); check --data, the order of its classes, --mean, --std and --lr, and "
            f"train longer",
            FggpWarning,
            stacklevel=3,
        )


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{v:g}" for v in values)
