"""The interface of a pruning method: its hooks, and what describes it to the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.options import Options
from fggp_deploy.pruning.methods.state import PruningState
from fggp_deploy.pruning.schedules import Schedule


class Method(Protocol):
    """What a Pruner calls at four moments of a training run.

    Gradients are those that the optimizer is about to use, averaged over the processes of a run.
    Random numbers must come from a generator that is the same in all processes.
    """

    def start(self, state: PruningState) -> None:
        """Before the first step: set masks, create extra parameters."""
        ...

    def after_backward(self, state: PruningState, step: int) -> None:
        """After the gradients are final: may read and change `.grad`, and may change masks."""
        ...

    def after_step(self, state: PruningState, step: int) -> None:
        """After the optimizer's step: set removed weights and their optimizer state to zero."""
        ...

    def finish(self, state: PruningState) -> MaskSet:
        """Return the final masks."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state between steps: tensors and plain JSON types."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        ...


@runtime_checkable
class InRounds(Protocol):
    """A method that trains in several rounds, each with its own learning-rate cycle."""

    def cycle(self, step: int) -> tuple[int, int]:
        """The position of optimizer step 1, 2, … in its round, and the length of that round."""
        ...


@runtime_checkable
class Late(Protocol):
    """A method whose masks may change after the run's own schedule, its first 80%, has ended."""

    @property
    def last_update(self) -> int:
        """The last step at which the masks may change."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A method that reports its own measurements at the end of each epoch."""

    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Values by measurement and parameter."""
        ...


Batch = tuple[Tensor, Tensor]  # normalized images [B, C, H, W] and labels, int64 [B]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run asks of a method.

    `target`: sparsity at the end. `schedule`: the schedule of gradual pruning to the target.
    `n_steps`: optimizer steps of the run; `steps_per_epoch`: those of one epoch. `updates`, `rate`:
    the options of the run with these names. `seed`: for random numbers. `input_shape`: of one
    image, [C, H, W]. `densities`: the fraction that each layer keeps at the target; empty if the
    method decides. `pattern`: a key of patterns.PATTERNS, or None for single weights.
    `batches(n)`: at least n training images with test-time preprocessing, the same at every call;
    each of several processes gets its part. `progress(what, done, total)`: for long work at the
    start.
    """

    target: float
    schedule: Schedule
    n_steps: int
    steps_per_epoch: int
    updates: int
    rate: float
    seed: int
    input_shape: tuple[int, ...]
    batches: Callable[[int], Sequence[Batch]]
    densities: Mapping[str, float] = field(default_factory=dict)
    pattern: str | None = None
    progress: Progress = silent


Start = Literal["dense", "sparse", "random"]
_STARTS = {
    "dense": "a trained dense network",
    "sparse": "a trained network that is sparse already",
    "random": "random weights",
}


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """The description of a registered method.

    `make`: creates the method from its own options and the task. `reads`: options of the run that
    it uses besides the target. `keeps`: the state that it keeps between steps, in words. `starts`:
    what it can start from, the default first; `because`: why it cannot start from anything else, as
    a clause. `without_training`: it works with `--epochs 0`. `several_targets`: one run can produce
    several sparsities with nested masks. `ties`: given its options, a property of its weights that
    averaging would destroy, as a clause; "" if weights may be averaged.
    """

    title: str
    source: str
    make: Callable[[Any, Task], Method]
    options: type[Options] = Options
    reads: tuple[str, ...] = ()
    keeps: str = "nothing"
    starts: tuple[Start, ...] = ("dense", "sparse", "random")
    because: str = ""
    without_training: bool = False
    several_targets: bool = False
    ties: Callable[[Any], str] = field(default=lambda options: "")

    def refuse_start(self, name: str, start: Start) -> None:
        """Raise ConfigError if the method cannot start from this."""
        if start not in self.starts:
            can = " or ".join(_STARTS[s] for s in self.starts)
            can = can.replace(_STARTS["random"], f"{_STARTS['random']} (--start random)")
            raise ConfigError(
                f"--method {name} cannot start from {_STARTS[start]}: {self.because}; give it {can}"
            )
