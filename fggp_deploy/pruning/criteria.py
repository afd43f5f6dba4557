"""Criteria: pure functions that choose which alive weights to remove.

A criterion returns the weights to drop, not a score: FGGP (methods/fggp.py) chooses in two stages,
which no single score can express. Counts are exact, and ties go to the lower index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fggp_deploy.errors import ConfigError


class Criterion(Protocol):
    """Chooses n_drop of the alive weights.

    A layer whose gradient is zero everywhere is pruned by magnitude, whatever the criterion (see
    parts.choice.Choice). A criterion that also has a `remark` method can warn the user.
    """

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w [P], g [P] or None, alive bool [P] → int64 [n_drop] indices."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """A criterion that warns the user when an update cannot follow its options."""

    def remark(self, n_alive: int, n_drop: int) -> str | None:
        """The warning for an update that drops n_drop of n_alive weights; None if all is well."""
        ...


def remark(criterion: Criterion, n_alive: int, n_drop: int) -> str | None:
    """The criterion's warning for one update; None if it has none."""
    return criterion.remark(n_alive, n_drop) if isinstance(criterion, Remarking) else None


def smallest(x: Tensor, k: int) -> Tensor:
    """Indices of the k smallest entries of x [P] in increasing index order, ties by index.

    Exact selection: the k-th value is found first, then ties at it go to the lowest indices.
    Returns int64 [k]; raises ConfigError unless 0 <= k <= P.

    >>> smallest(torch.tensor([2.0, 1.0, 2.0, 0.0, 2.0]), 3).tolist()
    [0, 1, 3]
    """
    n = x.numel()
    if not 0 <= k <= n:
        raise ConfigError(f"cannot select {k} of {n} entries; k must be in 0..{n}")
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=x.device)
    kth = _kth_smallest(x, k)
    chosen = x < kth
    ties = indices(x == kth)
    chosen[ties[: k - int(chosen.count_nonzero())]] = True
    return indices(chosen)


def indices(mask: Tensor) -> Tensor:
    """The indices at which a bool [P] is True, int64 and increasing."""
    if mask.device.type == "cpu":  # NumPy is ten times as fast as torch.nonzero here
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


def _kth_smallest(x: Tensor, k: int) -> Tensor:
    """The k-th smallest value of x [P], k >= 1, without sorting all P."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        values = x.numpy(force=True).copy()
        values.partition(k - 1)
        return torch.from_numpy(values[k - 1 : k]).squeeze(0)
    if x.device.type == "cuda":  # kthvalue runs a row in one block; topk uses many
        return torch.topk(x, k, largest=False, sorted=False).values.max()
    return torch.kthvalue(x, k).values


@dataclass(frozen=True)
class Magnitude:
    """Drop the smallest |w| over all layers: gradual magnitude pruning (GMP).

    Source: Zhu & Gupta 2017 (arXiv 1710.01878), over all tensors at once.
    """

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w [P], alive bool [P] → int64 [n_drop] indices."""
        idx = indices(alive)
        return idx[smallest(w[idx].abs(), n_drop)]


def two_stages(first: Tensor, then: Tensor, idx: Tensor, k: int, n_drop: int) -> Tensor:
    """Of the k weights with the smallest |first|, the n_drop with the smallest |then|.

    first, then: [P]; idx: indices of the alive weights, int64 [N] → int64 [n_drop] indices.
    """
    candidates = idx[smallest(first[idx].abs(), k)]
    return candidates[smallest(then[candidates].abs(), n_drop)]


def check_rate(rate: float) -> None:
    """Raise ConfigError unless `rate`, the fraction of candidates, is in (0, 1]."""
    if not 0 < rate <= 1:
        raise ConfigError(f"rate must be in (0, 1], got {rate}")


def few_candidates(rate: float, n_alive: int, n_drop: int, *, decides: str) -> str | None:
    """The warning for a rate that leaves the second stage nothing to choose; None otherwise."""
    n_candidates = math.floor(rate * n_alive)
    if n_candidates >= n_drop:
        return None
    return (
        f"{n_drop} weights must go but rate {rate:g} offers only {n_candidates} candidates, so "
        f"{decides} alone decides. Use more updates, more epochs or a larger rate"
    )
