"""Lottery tickets: rounds of training, pruning and rewinding within one run."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import GLOBAL, Given
from fggp_deploy.pruning.criteria import Magnitude
from fggp_deploy.pruning.methods.gradual import Gradual, GradualOptions
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import setting
from fggp_deploy.pruning.methods.parts.reinit import NONE, ORTHP, REWIND, Reinit


@dataclass(frozen=True)
class Rounds:
    """The prunings that divide a run into rounds of equal length.

    Each pruning removes the fraction `share` of the alive weights; the last one stops at `target`.
    After each, the network returns to its weights of step `rewind_to`. With R prunings there are
    R + 1 rounds, and pruning i is at t_i = rewind_to + round(i·(steps − rewind_to)/(R + 1)). Raises
    ConfigError if there are fewer steps than rounds.

    >>> r = Rounds(target=0.5, steps=10, share=0.3, rewind_to=1)
    >>> r.update_steps, round(r.sparsity(4), 9), r.sparsity(7), r.cycle(8)
    ((4, 7), 0.3, 0.5, (2, 4))
    """

    target: float
    steps: int
    start: float = 0.0
    share: float = 0.2
    rewind_to: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.target < 1:
            raise ConfigError(f"need 0 <= start <= target < 1, got {self.start}, {self.target}")
        if not 0 < self.share < 1:
            raise ConfigError(f"share must be in (0, 1), got {self.share}")
        if not 0 <= self.rewind_to <= self.steps - self.n_prunings - 1:
            raise ConfigError(
                f"{self.n_prunings + 1} rounds of training after step {self.rewind_to} need more "
                f"than {self.steps} steps; give more --epochs, a larger `share`, or an earlier "
                "`rewind_epoch`"
            )

    @cached_property
    def n_prunings(self) -> int:
        """The number of prunings."""
        if self.target == self.start:
            return 0
        left = math.log((1 - self.target) / (1 - self.start)) / math.log(1 - self.share)
        return math.ceil(left - 1e-9)

    @cached_property
    def update_steps(self) -> tuple[int, ...]:
        """The last step of every round except the last, increasing."""
        span, n = self.steps - self.rewind_to, self.n_prunings + 1
        return tuple(self.rewind_to + (2 * i * span + n) // (2 * n) for i in range(1, n))

    @property
    def last_update(self) -> int:
        """The step of the last pruning; 0 if there is none."""
        return self.update_steps[-1] if self.update_steps else 0

    def is_update(self, step: int) -> bool:
        """True at the last step of a round."""
        return step in self.update_steps

    def sparsity(self, step: int) -> float:
        """Fraction removed after this step."""
        n = sum(t <= step for t in self.update_steps)
        if n == self.n_prunings:
            return self.target
        return 1 - (1 - self.start) * (1 - self.share) ** n

    def cycle(self, step: int) -> tuple[int, int]:
        """The position of a step in its round, counted from step 1, and the length of the round.

        A round that was rewound to step k continues with step k + 1.
        """
        ends = (*self.update_steps, self.steps)
        i = bisect_left(ends, step)
        before = ends[i - 1] - self.rewind_to if i else 0
        return step - before, ends[i] - before


class Lottery(Gradual):
    """Iterative magnitude pruning: each round ends with removing the smallest |w|, then `reinit`.

    The last step of a round chooses the weights; `reinit` then rewinds the network before the next
    round. Reinit("none") keeps the weights: iterative magnitude pruning without rewinding. The
    learning rate follows its cycle in each round, from the step of the rewinding.

    Source: Frankle & Carbin 2019 (arXiv 1803.03635); rewinding to a later step: Frankle et al. 2020
    (arXiv 1912.05671).
    """

    def __init__(self, rounds: Rounds, reinit: Reinit, *, allocation: str | Given = GLOBAL) -> None:
        super().__init__(Magnitude(), rounds, allocation=allocation)
        self.rounds = rounds
        self.reinit = reinit

    @property
    def last_update(self) -> int:
        """The last step at which the masks may change, see method.Late."""
        return self.rounds.last_update

    def reinitializes(self, step: int) -> bool:
        """True: after each round."""
        return True

    def cycle(self, step: int) -> tuple[int, int]:
        """See method.InRounds."""
        return self.rounds.cycle(step)


@dataclass(frozen=True, kw_only=True)
class LotteryOptions(GradualOptions):
    """Options of lottery tickets."""

    share: float = setting(
        0.2, "Fraction of the alive weights that each round removes.", above=0, below=1
    )
    rewind_epoch: float = setting(
        0.0, "Epoch to whose weights the network is rewound; 0: the initial weights.", least=0
    )
    reinit: str = setting(
        REWIND, "Kept weights after each pruning: rewound, made orthogonal, or unchanged.",
        choices=(REWIND, ORTHP, NONE),
    )  # fmt: skip


def _make(o: LotteryOptions, task: Task) -> Method:
    rewind_to = round(o.rewind_epoch * task.steps_per_epoch) if o.reinit == REWIND else 0
    rounds = Rounds(
        task.target, task.n_steps, start=task.schedule.sparsity(0), share=o.share,
        rewind_to=rewind_to,
    )  # fmt: skip
    return Lottery(rounds, Reinit(o.reinit, rewind_to=rewind_to), allocation=o.allocate(task))


METHOD = MethodInfo(
    title="lottery tickets: rounds of training, dropping the smallest |w|, rewinding",
    source="Frankle & Carbin 2019, arXiv 1803.03635; Frankle et al. 2020, arXiv 1912.05671",
    make=_make,
    options=LotteryOptions,
    keeps="the weights to rewind to",
    starts=("random", "dense", "sparse"),
)
