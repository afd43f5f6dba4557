"""From a network in training to the one that is kept: averaged weights, fresh statistics."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import islice

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from fggp_deploy.training.batches import Batches
from fggp_deploy.training.session import Session


def settled_model(s: Session, train: Batches) -> nn.Module:
    """A copy of the session's network to keep, in eval mode; the session goes on unchanged.

    Its weights are the moving average where there is one, and its batch-norm statistics are taken
    anew over `bn_images` training images, augmented as in training: the weights are used to those,
    and a ResNet-20 on CIFAR-10 loses 3 points on the plain ones' statistics. Removed weights are
    zero. All ranks call.
    """
    model = deepcopy(s.model)
    if s.average is not None:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(s.average[name])
    s.pruner.all_masks().apply_(dict(model.named_parameters()))
    if s.config.bn_images:
        generator = torch.Generator().manual_seed(s.config.seed)
        batches = train.shuffled(generator, s.augmentation)
        n = math.ceil(s.config.bn_images / s.config.batch_size)
        update_bn((x for x, _ in islice(batches, n)), model)
        s.ranks.mean_(model.buffers())
    return model.eval()
