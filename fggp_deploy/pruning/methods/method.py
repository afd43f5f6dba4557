"""What a method is: four moments of a training run, and what the program tells of it."""

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
    """What a Pruner drives: four moments of a training run.

    Gradients are those that the optimiser is about to use, averaged over the processes of a run;
    what is random comes from a generator that is the same in all of them.
    """

    def start(self, state: PruningState) -> None:
        """Before the first step: masks, extra parameters."""
        ...

    def after_backward(self, state: PruningState, step: int) -> None:
        """Gradients are there; may read and change `.grad`, may change masks."""
        ...

    def after_step(self, state: PruningState, step: int) -> None:
        """The optimiser has stepped: re-zero weights and optimiser state."""
        ...

    def finish(self, state: PruningState) -> MaskSet:
        """The final hard masks."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the method remembers from step to step: tensors and plain JSON types."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        ...


@runtime_checkable
class InRounds(Protocol):
    """A method that trains anew several times in a run, each time with its own learning rate."""

    def cycle(self, step: int) -> tuple[int, int]:
        """Where optimiser step 1, 2, … of the run is in its training, and how long that one is."""
        ...


@runtime_checkable
class Late(Protocol):
    """A method whose masks may change when the run's own schedule, its first 80%, has ended."""

    @property
    def last_update(self) -> int:
        """The last step at which they may."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A method that has more to say of itself at the end of each epoch."""

    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """By the measure's name, and there by parameter."""
        ...


Batch = tuple[Tensor, Tensor]  # normalised images [B, C, H, W] and labels, int64 [B]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run asks of a method.

    `target`: sparsity at the end. `schedule`: of gradual pruning to it. `n_steps`: optimiser steps
    of the run, `steps_per_epoch` of one pass over the images. `updates`, `rate`: the run's options
    of that name. `seed`: of what is random. `input_shape`: of one image, [C, H, W]. `densities`:
    the share that each layer is to keep at the target; empty where the method decides. `pattern`:
    of patterns.PATTERNS, None where single weights go.
    `batches(n)`: at least n training images as they are tested, the same ones at every call; each
    of several processes gets its share. `progress(what, done, total)` is for long work at the
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
    """A method as the program offers it, under the name that it is registered by.

    `make`: from its own options and the task. `reads`: options of the run that it obeys beside
    the target. `keeps`: what it remembers from step to step, in words. `starts`: what it can begin
    with, the usual first; `because` says in half a sentence why not with anything else.
    `without_training`: it can be asked for `--epochs 0`. `several_targets`: one run can stop at
    several sparsities, the masks nested. `ties`: by its options, what its weights have in common
    that an average of them has not, in half a sentence; "" where they may be averaged.
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
        """Raise ConfigError where the method cannot begin with this."""
        if start not in self.starts:
            can = " or ".join(_STARTS[s] for s in self.starts)
            can = can.replace(_STARTS["random"], f"{_STARTS['random']} (--start random)")
            raise ConfigError(
                f"--method {name} cannot start from {_STARTS[start]}: {self.because}; give it {can}"
            )
