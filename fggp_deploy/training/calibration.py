"""Training images for methods that need some before the first step."""

from __future__ import annotations

import math
from itertools import islice

import torch

from fggp_deploy.data.types import Dataset
from fggp_deploy.distributed.ranks import ALONE, Ranks
from fggp_deploy.pruning.methods import Batch
from fggp_deploy.training.augment import Augmentation
from fggp_deploy.training.batches import open_batches

_NO_AUGMENTATION = Augmentation("none", flip=False, crop_padding=0)


def calibration_batches(
    data: Dataset,
    n: int,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    workers: int | None = None,
    ranks: Ranks = ALONE,
) -> list[Batch]:
    """At least n training images in full batches, or one epoch of them, without augmentation.

    They are drawn from the seed, the same at every call; each rank gets its share.
    """
    batches = open_batches(
        data.train, data.preprocessing, batch_size=batch_size, device=device, workers=workers,
        ranks=ranks,
    )  # fmt: skip
    drawn = batches.shuffled(torch.Generator().manual_seed(seed), _NO_AUGMENTATION)
    return list(islice(drawn, math.ceil(n / batch_size)))
