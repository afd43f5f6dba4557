"""The ablation variants of FGGP: other ways to combine magnitude and gradient.

All prune gradually, on the same schedule. N is the number of alive weights, N_p the number that an
update removes. Source: Zhu, Bezek & Goksel 2024 (arXiv 2411.05500), the ablation study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import GLOBAL, Given
from fggp_deploy.pruning.criteria import (
    Criterion,
    check_rate,
    few_candidates,
    indices,
    smallest,
    two_stages,
)
from fggp_deploy.pruning.methods.fggp import FGGP
from fggp_deploy.pruning.methods.gradual import Gradual, GradualOptions
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import setting
from fggp_deploy.pruning.methods.state import PruningState
from fggp_deploy.pruning.schedules import Cosine, Schedule

_SOURCE = "ablation of Zhu, Bezek & Goksel 2024, arXiv 2411.05500"
First = Literal["gradient", "magnitude"]


@dataclass(frozen=True)
class MagnitudeFirst:
    """FGGP with its two stages swapped.

    Of the N alive weights, the K = max(⌊rate·N⌋, n_drop) with the smallest |w| are candidates; of
    those, the n_drop with the smallest |g| are dropped. rate = 1 is pure smallest-gradient pruning;
    K = n_drop is magnitude pruning.

    >>> w = torch.tensor([0.1, 0.2, 0.3, 0.4]); g = torch.tensor([9.0, 1.0, 2.0, 0.0])
    >>> MagnitudeFirst(rate=0.5).drop(w, g, torch.ones(4, dtype=torch.bool), 1).tolist()
    [1]
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        check_rate(self.rate)

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w, g [P], alive bool [P] → int64 [n_drop] indices."""
        idx = indices(alive)
        k = max(math.floor(self.rate * idx.numel()), n_drop)
        return two_stages(w, _required(g), idx, k, n_drop)

    def remark(self, n_alive: int, n_drop: int) -> str | None:
        """Warn if the rate leaves so few candidates that the gradient decides nothing."""
        return few_candidates(self.rate, n_alive, n_drop, decides="magnitude")


@dataclass(frozen=True)
class Widened:
    """Two stages whose candidates are n_drop plus a fraction of the others.

    K = n_drop + ⌊share·(N − n_drop)⌋ candidates have the smallest |g| (`first` "gradient") or |w|
    ("magnitude"); of those, the n_drop with the smallest other value are dropped. With share = 0
    only the first decides, with share = 1 only the other.
    """

    first: First
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share must be in [0, 1], got {self.share}")

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w, g [P], alive bool [P] → int64 [n_drop] indices."""
        idx = indices(alive)
        k = n_drop + math.floor(self.share * (idx.numel() - n_drop))
        first, then = (_required(g), w) if self.first == "gradient" else (w, _required(g))
        return two_stages(first, then, idx, k, n_drop)


@dataclass(frozen=True)
class Saliency:
    """Drop the smallest |g·w|, the first-order change of the loss when a weight is removed.

    >>> w = torch.tensor([1.0, 2.0, 3.0]); g = torch.tensor([3.0, 1.0, 2.0])
    >>> Saliency().drop(w, g, torch.ones(3, dtype=torch.bool), 2).tolist()
    [0, 1]
    """

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w, g [P], alive bool [P] → int64 [n_drop] indices."""
        idx = indices(alive)
        return idx[smallest((w[idx] * _required(g)[idx]).abs(), n_drop)]


@dataclass(frozen=True)
class RankCriterion:
    """Drop by the ranks of |w| and |g| among the alive weights: by their sum or their product.

    A weight's rank is 1 + the number of smaller alive weights; equal values share a rank.

    >>> w = torch.tensor([1.0, 2.0, 3.0, 4.0]); g = torch.tensor([4.0, 2.0, 3.0, 1.0])
    >>> RankCriterion("sum").drop(w, g, torch.ones(4, dtype=torch.bool), 1).tolist()  # 5 4 6 5
    [1]
    """

    together: Literal["sum", "product"]

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w, g [P], alive bool [P] → int64 [n_drop] indices."""
        idx = indices(alive)
        a, b = _rank(w[idx].abs()), _rank(_required(g)[idx].abs())
        return idx[smallest(a + b if self.together == "sum" else a * b, n_drop)]


class Annealed(Gradual):
    """Gradual pruning in two stages; the fraction of extra candidates follows a cosine.

    At step t, K − N_p = ⌊(N − N_p)·ρ_t⌋, with ρ_t from `anneal`.
    """

    def __init__(
        self,
        first: First,
        anneal: Cosine,
        schedule: Schedule,
        *,
        allocation: str | Given = GLOBAL,
        pattern: str | None = None,
    ) -> None:
        widened = Widened(first, anneal.first)
        super().__init__(widened, schedule, allocation=allocation, pattern=pattern)
        self.first: First = first
        self.anneal = anneal

    def criterion_at(self, step: int) -> Criterion:
        """The criterion with the fraction of that step."""
        return Widened(self.first, self.anneal.at(step))


class MeanGradient(Gradual):
    """FGGP on the moving average of |g| over all steps: m ← decay·m + (1 − decay)·|g|.

    m starts as the first |g|. A step whose gradients are not finite does not count.
    """

    def __init__(
        self,
        rate: float,
        decay: float,
        schedule: Schedule,
        *,
        allocation: str | Given = GLOBAL,
        pattern: str | None = None,
    ) -> None:
        super().__init__(FGGP(rate), schedule, allocation=allocation, pattern=pattern)
        self.decay = decay
        self._mean: Tensor | None = None

    def after_backward(self, state: PruningState, step: int) -> None:
        """Update the average, then prune as every gradual method does."""
        if step <= self.schedule.last_update or self._pending:
            self._update_average(state)
        super().after_backward(state, step)

    def gradients(self, state: PruningState) -> Tensor:
        """The averaged |g|, [P]."""
        return state.flat_grads() if self._mean is None else self._mean

    def state_dict(self) -> dict[str, Any]:
        """The state of Gradual, and the average."""
        return super().state_dict() | {"mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        super().load_state_dict(state)
        self._mean = state["mean"]

    def _update_average(self, state: PruningState) -> None:
        if not state.grads_are_finite():
            return
        g = state.flat_grads().abs_()
        if self._mean is None:
            self._mean = g
            return
        self._mean = self._mean.to(g.device).mul_(self.decay).add_(g, alpha=1 - self.decay)


@dataclass(frozen=True, kw_only=True)
class AnnealedOptions(GradualOptions):
    """Options of the annealed variants, with the paper's defaults."""

    anneal_from: float = setting(
        0.5, "Fraction of the other weights that are also candidates at first.", least=0, most=1
    )
    anneal_to: float = setting(
        0.005, "The same fraction in the last step of the run.", least=0, most=1
    )


@dataclass(frozen=True, kw_only=True)
class MeanOptions(GradualOptions):
    """Options of mean-gradient."""

    decay: float = setting(0.5, "Decay of the moving average of |g|.", least=0, below=1)


def _annealed(first: First, o: AnnealedOptions, task: Task) -> Method:
    anneal = Cosine(o.anneal_from, o.anneal_to, steps=task.n_steps)
    return o.then_reinit(
        Annealed(first, anneal, task.schedule, allocation=o.allocate(task), pattern=task.pattern)
    )


MAGNITUDE_FIRST = MethodInfo(
    title="magnitude first, then gradient, at a fixed rate",
    source=_SOURCE,
    make=lambda o, task: o.gradual(MagnitudeFirst(task.rate), task),
    options=GradualOptions,
    reads=("updates", "rate", "pattern"),
    several_targets=True,
)
MAGNITUDE_FIRST_ANNEALED = MethodInfo(
    title="magnitude first, then gradient, with fewer and fewer candidates",
    source=_SOURCE,
    make=lambda o, task: _annealed("magnitude", o, task),
    options=AnnealedOptions,
    reads=("updates", "pattern"),
    several_targets=True,
)
GRADIENT_FIRST_ANNEALED = MethodInfo(
    title="FGGP with fewer and fewer candidates instead of a fixed rate",
    source=_SOURCE,
    make=lambda o, task: _annealed("gradient", o, task),
    options=AnnealedOptions,
    reads=("updates", "pattern"),
    several_targets=True,
)
SALIENCY = MethodInfo(
    title="gradual pruning by |g·w|",
    source=_SOURCE,
    make=lambda o, task: o.gradual(Saliency(), task),
    options=GradualOptions,
    reads=("updates",),
    several_targets=True,
)
RANK_SUM = MethodInfo(
    title="gradual pruning by the sum of the ranks of |w| and |g|",
    source=_SOURCE,
    make=lambda o, task: o.gradual(RankCriterion("sum"), task),
    options=GradualOptions,
    reads=("updates", "pattern"),
    several_targets=True,
)
RANK_PRODUCT = MethodInfo(
    title="gradual pruning by the product of the ranks of |w| and |g|",
    source=_SOURCE,
    make=lambda o, task: o.gradual(RankCriterion("product"), task),
    options=GradualOptions,
    reads=("updates", "pattern"),
    several_targets=True,
)
MEAN_GRADIENT = MethodInfo(
    title="FGGP on a moving average of |g|",
    source=_SOURCE,
    make=lambda o, task: o.then_reinit(
        MeanGradient(
            task.rate, o.decay, task.schedule, allocation=o.allocate(task), pattern=task.pattern
        )
    ),
    options=MeanOptions,
    reads=("updates", "rate", "pattern"),
    keeps="the average of |g|, one number per weight",
    several_targets=True,
)


def _required(g: Tensor | None) -> Tensor:
    if g is None:
        raise ConfigError(
            "this criterion needs the gradients of the weights, got None; call it after backward()"
        )
    return g


def _rank(x: Tensor) -> Tensor:
    """1 + the number of smaller entries, int64 [P]."""
    return torch.searchsorted(x.sort().values, x) + 1
