"""AC/DC: alternating compressed and decompressed training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import GLOBAL, Given
from fggp_deploy.pruning.criteria import Criterion, Magnitude
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.fggp import FGGP
from fggp_deploy.pruning.methods.gradual import Gradual, GradualOptions
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import setting
from fggp_deploy.pruning.methods.state import PruningState

MAGNITUDE, FGGP_CHOICE = "magnitude", "fggp"


@dataclass(frozen=True)
class Phases:
    """When a run of `steps` optimizer steps is compressed.

    The first phase is dense and lasts `warm_up` of the steps; the last is compressed and lasts
    `last` of them. `cycles` pairs of a compressed and a decompressed phase of equal length lie
    between; fewer if there are not enough steps. A phase that begins at step t changes the masks
    at step t. Raises ConfigError if the two shares leave no step for either.

    >>> p = Phases(0.9, steps=10, warm_up=0.2, last=0.4, cycles=1)
    >>> p.compressions, p.decompressions, p.sparsity(4), p.sparsity(5)
    ((3, 7), (5,), 0.9, 0.0)
    """

    target: float
    steps: int
    start: float = 0.0
    warm_up: float = 0.1
    last: float = 0.25
    cycles: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self._first <= self.last_update <= self.steps:
            raise ConfigError(
                f"warm_up {self.warm_up:g} and last {self.last:g} leave no step between them in a "
                f"run of {self.steps} steps; make them smaller, or give more --epochs"
            )

    @property
    def _first(self) -> int:
        return 1 + round(self.warm_up * self.steps)

    @property
    def last_update(self) -> int:
        """The step at which the last compressed phase begins."""
        return max(1, self.steps + 1 - max(1, round(self.last * self.steps)))

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """First steps of all phases but the dense one: compressed, decompressed, compressed, …"""
        span = self.last_update - self._first
        if span == 0:
            return (self.last_update,)
        n = 2 * min(self.cycles, span // 2)
        between = (self._first + round(i * span / n) for i in range(n)) if n else ()
        return (*between, self.last_update)

    @property
    def compressions(self) -> tuple[int, ...]:
        """Steps at which masks are chosen anew."""
        return self._starts[::2]

    @property
    def decompressions(self) -> tuple[int, ...]:
        """Steps at which all weights come back."""
        return self._starts[1::2]

    def is_update(self, step: int) -> bool:
        """True if a compressed phase begins at this step."""
        return step in self.compressions

    def sparsity(self, step: int) -> float:
        """Fraction removed after this step, in [0, 1)."""
        begun = sum(t <= step for t in self._starts)
        return self.target if begun % 2 else self.start


class ACDC(Gradual):
    """Alternates phases under masks with phases in which all weights train.

    At the start of each compressed phase the criterion chooses among all weights; they are set to
    zero, and so is their optimizer state, so that they restart from zero in the decompressed phase
    that follows. Initial zeros of the network stay zero throughout. With `cycles` 0 and
    magnitude this is one-shot magnitude pruning at the step `phases.last_update`.

    Source: Peste et al. 2021 (arXiv 2106.12379). There masks are chosen by |w|; FGGP's two-stage
    choice in its place is ours.
    """

    def __init__(
        self,
        criterion: Criterion,
        phases: Phases,
        *,
        allocation: str | Given = GLOBAL,
        pattern: str | None = None,
    ) -> None:
        super().__init__(criterion, phases, allocation=allocation, pattern=pattern)
        self.phases = phases
        self._all: MaskSet | None = None  # the weights that a decompressed phase trains

    @property
    def last_update(self) -> int:
        """The last step at which masks change."""
        return self.phases.last_update

    def start(self, state: PruningState) -> None:
        """Record which weights the network starts with."""
        self._all = state.masks
        super().start(state)

    def after_backward(self, state: PruningState, step: int) -> None:
        """Begin a phase if one is due."""
        if step in self.phases.decompressions:
            assert self._all is not None  # set by start or load_state_dict
            self._pending = False  # a compression that found no finite gradients is over
            state.set_masks(self._all, when=f"step {step}")
        super().after_backward(state, step)

    def state_dict(self) -> dict[str, Any]:
        """The state of Gradual, and the weights that the network started with."""
        assert self._all is not None  # set by start or load_state_dict
        return super().state_dict() | {"all": dict(self._all)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        super().load_state_dict(state)
        self._all = MaskSet(state["all"])


@dataclass(frozen=True, kw_only=True)
class ACDCOptions(GradualOptions):
    """AC/DC's options."""

    choose: str = setting(
        MAGNITUDE, "How a compressed phase chooses its weights: by |w|, or as FGGP with --rate.",
        choices=(MAGNITUDE, FGGP_CHOICE),
    )  # fmt: skip
    warm_up: float = setting(
        0.1, "Fraction of the steps before the first compressed phase.", least=0, below=1
    )
    last: float = setting(
        0.25, "Fraction of the steps in the last compressed phase.", above=0, most=1
    )
    cycles: int = setting(
        8, "Pairs of a compressed and a decompressed phase between these two.", least=0
    )


def _make(o: ACDCOptions, task: Task) -> Method:
    phases = Phases(
        task.target, task.n_steps, task.schedule.sparsity(0),
        warm_up=o.warm_up, last=o.last, cycles=o.cycles,
    )  # fmt: skip
    criterion = FGGP(task.rate) if o.choose == FGGP_CHOICE else Magnitude()
    return o.then_reinit(ACDC(criterion, phases, allocation=o.allocate(task), pattern=task.pattern))


METHOD = MethodInfo(
    title="alternating compressed and decompressed training",
    source="Peste et al. 2021, arXiv 2106.12379",
    make=_make,
    options=ACDCOptions,
    reads=("rate", "pattern"),
    keeps="the weights that the network started with",
)
