"""Final averaging: the network to keep, with averaged weights and new batch-norm statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from fggp_deploy.training.batches import Batches
from fggp_deploy.training.session import Session


def final_model(
    s: Session, train: Batches, weights: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """A copy of the session's network to keep, in eval mode; the session stays unchanged.

    Its weights are `weights`, else the session's average if there is one, else the current ones.
    Removed weights are zero. Batch-norm statistics are computed again over `bn_images` training
    images with the augmentation of training: the weights fit those, and a ResNet-20 on CIFAR-10
    loses 3 points with statistics of plain images. All ranks call.
    """
    model = deepcopy(s.model)
    if weights is None and s.average is not None:
        weights = s.average.mean
    if weights is not None:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(weights[name])
    s.pruner.all_masks().apply_(dict(model.named_parameters()))
    if s.config.bn_images:
        generator = torch.Generator().manual_seed(s.config.seed)
        batches = train.shuffled(generator, s.augmentation)
        n = math.ceil(s.config.bn_images / s.config.batch_size)
        update_bn((x for x, _ in islice(batches, n)), model)
        s.ranks.mean_(model.buffers())
    return model.eval()


@torch.no_grad()
def ensemble_accuracy(s: Session, train: Batches, test: Batches) -> float | None:
    """Top-1 accuracy, 0 to 1, of the mean softmax of `ensemble` networks drawn from the average.

    Each has its own batch-norm statistics. None if there is no average to draw from. All ranks
    call.
    """
    if s.average is None or not s.config.ensemble:
        return None
    generator = torch.Generator().manual_seed(s.config.seed)
    total: list[Tensor] = []
    for _ in range(s.config.ensemble):
        model = final_model(s, train, s.average.sample(generator))
        one = [model(x).float().softmax(1) for x, _ in test.in_order()]
        total = [a + b for a, b in zip(total, one, strict=True)] if total else one
    right = torch.zeros((), dtype=torch.int64, device=test.labels.device)
    for summed, (_, y) in zip(total, test.in_order(), strict=True):
        right += (summed.argmax(1) == y).sum()
    return int(test.ranks.total(right)) / len(test.labels)
