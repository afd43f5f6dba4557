"""The loss: cross-entropy with the labels, and distillation from the dense model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 2.0  # of distillation


def loss(
    logits: Tensor, y: Tensor, soft: Tensor | None, *, distill: float, label_smoothing: float
) -> Tensor:
    """(1 − distill)·cross-entropy + distill·T²·KL to the teacher's softened outputs.

    logits, soft: [B, classes]; y: int64 [B]. If `soft` is None, the cross-entropy alone.
    Source: Hinton et al. 2015 (arXiv 1503.02531).
    """
    hard = F.cross_entropy(logits, y, label_smoothing=label_smoothing)
    if soft is None:
        return hard
    target = (soft.detach().float() / TEMPERATURE).softmax(1)
    kl = F.kl_div((logits / TEMPERATURE).log_softmax(1), target, reduction="batchmean")
    return (1 - distill) * hard + distill * TEMPERATURE**2 * kl
