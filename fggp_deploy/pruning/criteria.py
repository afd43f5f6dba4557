"""Which weights to drop: pure functions of weights, gradients and who is alive.

A criterion says what to DROP; it is no score, because FGGP chooses in two stages and no single
score can express that. Everything is exact: counts are met, ties go to the lower index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from fggp_deploy.errors import ConfigError


class Criterion(Protocol):
    """Chooses n_drop of the alive weights."""

    needs_grad: ClassVar[bool]

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w [P], g [P] or None, alive bool [P] → int64 [n_drop] indices."""
        ...

    def remark(self, n_alive: int, n_drop: int) -> str | None:
        """Say where an update departs from what the options ask for; None when it does not."""
        ...


def smallest(x: Tensor, k: int) -> Tensor:
    """Indices of the k smallest entries of x [P] in increasing index order, ties by index.

    Exact selection: the k-th value is found first, then ties at it go to the lowest indices.
    Returns int64 [k]; raises ConfigError unless 0 <= k <= P.

    >>> smallest(torch.tensor([2.0, 1.0, 2.0, 0.0, 2.0]), 3).tolist()
    [0, 1, 3]
    """
    n = x.numel()
    if not 0 <= k <= n:
        raise ConfigError(f"cannot select {k} of {n} entries")
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=x.device)
    kth = _kth_smallest(x, k)
    chosen = x < kth
    ties = indices(x == kth)
    chosen[ties[: k - int(chosen.count_nonzero())]] = True
    return indices(chosen)


def indices(mask: Tensor) -> Tensor:
    """Where a bool [P] is True, int64 and increasing."""
    if mask.device.type == "cpu":  # NumPy is ten times as fast as torch.nonzero here
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


def _kth_smallest(x: Tensor, k: int) -> Tensor:
    """The k-th smallest value of x [P], k >= 1; no sort of all P anywhere."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        values = x.numpy(force=True).copy()
        values.partition(k - 1)
        return torch.from_numpy(values[k - 1 : k]).squeeze(0)
    if x.device.type == "cuda":  # kthvalue gives a row to one block; topk spreads it over many
        return torch.topk(x, k, largest=False, sorted=False).values.max()
    return torch.kthvalue(x, k).values


@dataclass(frozen=True)
class Magnitude:
    """Drop the smallest |w|, globally: gradual magnitude pruning (GMP).

    Source: Zhu & Gupta 2017 (arXiv 1710.01878), over all tensors at once.
    """

    needs_grad: ClassVar[bool] = False

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w [P], alive bool [P] → int64 [n_drop] indices."""
        idx = indices(alive)
        return idx[smallest(w[idx].abs(), n_drop)]

    def remark(self, n_alive: int, n_drop: int) -> str | None:
        """Nothing to say."""
        return None


@dataclass(frozen=True)
class FGGP:
    """Fixed-rate gradient-first gradual pruning.

    Of the N alive weights, the K = max(⌊rate·N⌋, n_drop) with the smallest |g| are candidates; of
    those, the n_drop with the smallest |w| are dropped. rate = 1 is magnitude pruning; K = n_drop
    is pure smallest-gradient pruning.

    Source: Zhu, Bezek & Goksel 2024 (arXiv 2411.05500); rate 0.5 is the public code's.

    >>> w = torch.tensor([0.1, 0.2, 0.3, 0.4]); g = torch.tensor([9.0, 1.0, 2.0, 8.0])
    >>> FGGP(rate=0.5).drop(w, g, torch.ones(4, dtype=torch.bool), 1).tolist()
    [1]
    """

    rate: float = 0.5
    needs_grad: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self.rate)

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w, g [P], alive bool [P] → int64 [n_drop] indices."""
        if g is None:
            raise ConfigError("FGGP reads gradients: call it after backward")
        idx = indices(alive)
        return two_stages(g, w, idx, max(math.floor(self.rate * idx.numel()), n_drop), n_drop)

    def remark(self, n_alive: int, n_drop: int) -> str | None:
        """Tell when the rate leaves too few candidates, so that magnitude has no say."""
        return too_few(self.rate, n_alive, n_drop, decides="the gradient")


def two_stages(first: Tensor, then: Tensor, idx: Tensor, k: int, n_drop: int) -> Tensor:
    """Of the k with the smallest |first|, the n_drop with the smallest |then|.

    first, then: [P]; idx int64 [N], the alive → int64 [n_drop] indices.
    """
    candidates = idx[smallest(first[idx].abs(), k)]
    return candidates[smallest(then[candidates].abs(), n_drop)]


def check_rate(rate: float) -> None:
    """Raise ConfigError unless it is a share of candidates."""
    if not 0 < rate <= 1:
        raise ConfigError(f"rate must be in (0, 1], got {rate}")


def too_few(rate: float, n_alive: int, n_drop: int, *, decides: str) -> str | None:
    """What to tell where a rate leaves so few candidates that the second stage has no say."""
    n_candidates = math.floor(rate * n_alive)
    if n_candidates >= n_drop:
        return None
    return (
        f"{n_drop} weights must go but rate {rate:g} offers only {n_candidates} candidates; "
        f"{decides} alone decides. Use more updates, more epochs or a larger rate"
    )
