"""Wanda: one-shot pruning by weight times input norm, without training."""

from __future__ import annotations

import torch
from torch import Tensor

from fggp_deploy.pruning.criteria import smallest
from fggp_deploy.pruning.methods.method import MethodInfo
from fggp_deploy.pruning.methods.parts.calibration import Gram
from fggp_deploy.pruning.methods.parts.one_shot import NEEDS_DENSE, OneShotOptions


def wanda(weight: Tensor, gram: Gram, n_drop: int) -> tuple[Tensor, Tensor]:
    """Drop the smallest |w|·‖x‖ of each output; ‖x‖ is the norm of the weight's input.

    Every output loses the same number, and the first `n_drop mod outputs` lose one more.
    Source: Sun et al. 2023 (arXiv 2306.11695), section 3.
    """
    groups, outputs, k = weight.shape
    score = weight.abs().double() * gram.inputs.diagonal(dim1=1, dim2=2).sqrt().unsqueeze(1)
    rows = score.reshape(groups * outputs, k)
    each, more = divmod(n_drop, len(rows))
    kept = torch.ones_like(rows, dtype=torch.bool)
    for i, row in enumerate(rows):
        kept[i, smallest(row, each + (i < more))] = False
    return kept.view(weight.shape), weight


METHOD = MethodInfo(
    title="one shot by |w|·‖x‖, then the closed-form re-fit",
    source="Sun et al. 2023, arXiv 2306.11695; re-fit: ours",
    make=lambda o, task: o.one_shot(wanda, task),
    options=OneShotOptions,
    starts=("dense",),
    because=NEEDS_DENSE,
    without_training=True,
)
