"""What a model is planned for, and what was decided: whether it runs on the kernels, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fggp_deploy.common.cores import usable_cores
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.runtime.sessions import SessionConfig

if TYPE_CHECKING:
    from fggp_deploy.runtime.costs import LayerCost


@dataclass(frozen=True)
class Plan:
    """Whether the compiled model replaces the file (`sparse`), and the `reason`.

    `ratio` is dense time over sparse time, the lower end of its 95% interval; None if nothing was
    timed. `tuning_seconds` is the time that the search for kernel variants was given. `busy` says
    that other programs disturbed the measurement, so that it should be repeated later.
    """

    sparse: bool
    reason: str
    ratio: float | None = None
    tuning_seconds: float = 0.0
    busy: bool = False

    def __str__(self) -> str:
        return f"{'kernels' if self.sparse else 'plain'}: {self.reason}"


@dataclass(frozen=True)
class CompiledModel:
    """A plan, and the model with its regions as single nodes; None if the kernels are not used.

    `layers` is what each layer costs; empty if nothing was timed, or the plan is from the cache.
    """

    plan: Plan
    model: bytes | None = None
    layers: Sequence[LayerCost] = field(default=())

    @classmethod
    def standard(cls, reason: str) -> CompiledModel:
        """The decision for a standard session."""
        return cls(Plan(False, reason))


@dataclass(frozen=True)
class CompileRequest:
    """What a model is compiled for: the session's options, and the sizes to plan for.

    `shape` holds the dimensions of the inputs after the first, if the model leaves them open. A
    `portable` model is for other machines too: its regions take the threads of each session.
    """

    options: SessionConfig
    batch: int = 1
    measure: bool = True
    tuning_seconds: float = 0.5
    progress: Progress = silent
    shape: tuple[int, ...] = ()
    portable: bool = False

    @property
    def threads(self) -> int:
        """Threads that the model will run on; 0 if each session decides."""
        if self.portable:
            return 0
        return self.options.threads or usable_cores()
