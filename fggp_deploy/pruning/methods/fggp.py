"""FGGP: how it chooses weights, and the method that `--method` knows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.criteria import check_rate, few_candidates, indices, two_stages
from fggp_deploy.pruning.methods.gradual import GradualOptions
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task


@dataclass(frozen=True)
class FGGP:
    """Fixed-rate gradient-first gradual pruning.

    Of the N alive weights, the K = max(⌊rate·N⌋, n_drop) with the smallest |g| are candidates; of
    those, the n_drop with the smallest |w| are dropped. rate = 1 is magnitude pruning; K = n_drop
    is pure smallest-gradient pruning.

    Source: Zhu, Bezek & Goksel 2024 (arXiv 2411.05500); the public code uses rate 0.5.

    >>> import torch
    >>> w = torch.tensor([0.1, 0.2, 0.3, 0.4]); g = torch.tensor([9.0, 1.0, 2.0, 8.0])
    >>> FGGP(rate=0.5).drop(w, g, torch.ones(4, dtype=torch.bool), 1).tolist()
    [1]
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        check_rate(self.rate)

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w, g [P], alive bool [P] → int64 [n_drop] indices."""
        if g is None:
            raise ConfigError(
                "FGGP needs the gradients of the weights, got None; call it after backward()"
            )
        idx = indices(alive)
        return two_stages(g, w, idx, max(math.floor(self.rate * idx.numel()), n_drop), n_drop)

    def remark(self, n_alive: int, n_drop: int) -> str | None:
        """Warn if the rate leaves so few candidates that magnitude decides nothing."""
        return few_candidates(self.rate, n_alive, n_drop, decides="the gradient")


def _make(options: GradualOptions, task: Task) -> Method:
    return options.gradual(FGGP(task.rate), task)


METHOD = MethodInfo(
    title="fixed-rate gradient-first gradual pruning",
    source="Zhu, Bezek & Goksel 2024, arXiv 2411.05500",
    make=_make,
    options=GradualOptions,
    reads=("updates", "rate", "pattern"),
    several_targets=True,
)
