"""GraNet: gradual magnitude pruning with neuroregeneration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import erk
from fggp_deploy.pruning.criteria import Magnitude
from fggp_deploy.pruning.masks import random_masks
from fggp_deploy.pruning.methods.gradual import Gradual
from fggp_deploy.pruning.methods.method import Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import setting
from fggp_deploy.pruning.methods.parts.regrowth import Exchanges, RegrowthOptions, exchange_
from fggp_deploy.pruning.methods.state import PruningState
from fggp_deploy.pruning.schedules import Cubic, Schedule


class GraNet(Gradual):
    """Global magnitude pruning on a schedule, with an exchange of weights within each layer.

    An update first removes the smallest |w| of all layers, as GMP does. Each layer then drops the
    ⌈ρ·nnz⌉ smallest |w| that are left and grows as many removed weights with the largest |g|. All
    grown weights start at zero, also those that the same update pruned.
    Pruning ends with the schedule; exchanges end as `exchanges` says. ρ = 0 is GMP.

    `start_sparsity`: start with random Erdős–Rényi-kernel masks of that sparsity, drawn from
    `generator`; the schedule must start there.

    Source: Liu et al. 2021 (arXiv 2106.10404), algorithm 1; ρ falls from 0.5 to 0.005 along a
    cosine, as in the public code.
    """

    def __init__(
        self,
        schedule: Schedule,
        exchanges: Exchanges,
        *,
        start_sparsity: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(Magnitude(), schedule)
        self.exchanges = exchanges
        self.start_sparsity = start_sparsity
        self.generator = generator or torch.Generator()
        self._exchange_pending = False

    @property
    def last_update(self) -> int:
        """The last step at which the masks may change, see method.Late."""
        return max(self.schedule.last_update, self.exchanges.last)

    def start(self, state: PruningState) -> None:
        """Draw the random masks; raises ConfigError if the network is already sparse."""
        if self.start_sparsity:
            if state.masks.n_removed:
                raise ConfigError(
                    f"start_sparsity {self.start_sparsity:g} starts from a random mask, but the "
                    f"network is already {state.masks.sparsity:.2%} sparse; leave start_sparsity "
                    "out, or give a dense checkpoint"
                )
            keep = state.kept_by(erk, self.start_sparsity)
            state.set_masks(
                random_masks(state.params, keep, generator=self.generator), when="the random mask"
            )
        super().start(state)

    def after_backward(self, state: PruningState, step: int) -> None:
        """Prune to the schedule, then exchange."""
        before = state.masks
        super().after_backward(state, step)
        if state.masks is not before:
            state.zero_removed_()
        if self.exchanges.is_open(step) and step <= self.schedule.last_update:
            due = self.schedule.is_update(step)
        else:
            due = self.exchanges.is_due(step)
        if not (due or self._exchange_pending):
            return
        self._exchange_pending = not state.grads_are_finite()
        share = self.exchanges.share.at(step)
        if share and not self._exchange_pending:
            exchange_(state, share, state.flat_grads().abs_(), step)

    def state_dict(self) -> dict[str, Any]:
        """Whether an update or an exchange waits for finite gradients."""
        return super().state_dict() | {"exchange_pending": self._exchange_pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        super().load_state_dict(state)
        self._exchange_pending = bool(state["exchange_pending"])


@dataclass(frozen=True, kw_only=True)
class GraNetOptions(RegrowthOptions):
    """GraNet's options."""

    start_sparsity: float = setting(
        0.0, "Sparsity of a random mask at the start (0.5 in the paper); 0: none.",
        least=0, below=1,
    )  # fmt: skip


def _make(o: GraNetOptions, task: Task) -> Method:
    schedule = task.schedule
    if o.start_sparsity and isinstance(schedule, Cubic):
        if o.start_sparsity > task.target:
            raise ConfigError(
                f"--method-set start_sparsity {o.start_sparsity:g} is above --target "
                f"{task.target:g}"
            )
        schedule = dataclasses.replace(schedule, start=o.start_sparsity)
    # so many updates over all steps that their interval is that of the schedule
    updates = round(task.updates * task.n_steps / schedule.last_update)
    exchanges = Exchanges(o.share(task.n_steps), updates, o.until)
    return GraNet(
        schedule,
        exchanges,
        start_sparsity=o.start_sparsity,
        generator=torch.Generator().manual_seed(task.seed),
    )


METHOD = MethodInfo(
    title="gradual magnitude pruning with regrowth by gradient",
    source="Liu et al. 2021, arXiv 2106.10404",
    make=_make,
    options=GraNetOptions,
    reads=("updates",),
)
