"""Training images for methods that look at some before the first step."""

from __future__ import annotations

import math
from itertools import islice

import torch

from fggp_deploy.data.types import Dataset
from fggp_deploy.distributed.ranks import ALONE, Ranks
from fggp_deploy.pruning.methods import Batch
from fggp_deploy.training.augment import Augmentation
from fggp_deploy.training.batches import open_batches
from fggp_deploy.training.config import TrainConfig

_AS_TESTED = Augmentation("none", flip=False, crop_padding=0)


def calibration_batches(
    data: Dataset, config: TrainConfig, n: int, *, device: torch.device, ranks: Ranks = ALONE
) -> list[Batch]:
    """At least n training images, in full batches, or an epoch of them; no augmentation.

    Chosen by the run's seed, the same at every call; each of several processes gets its share.
    """
    batches = open_batches(
        data.train, data.preprocessing, batch_size=config.batch_size, device=device,
        workers=config.workers, ranks=ranks,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(config.seed)
    drawn = batches.shuffled(generator, _AS_TESTED)
    return list(islice(drawn, math.ceil(n / config.batch_size)))
