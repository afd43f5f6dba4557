"""The Pruner: applies a pruning method to a model in any training loop.

>>> pruner = Pruner(model, FGGP(), Cubic(0.98, steps=n), optimizer=opt)     # doctest: +SKIP
>>> loss.backward(); pruner.after_backward(); opt.step(); pruner.after_step()  # doctest: +SKIP
>>> masks = pruner.finish()                                                 # doctest: +SKIP
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from fggp_deploy.distributed.ranks import Ranks
from fggp_deploy.errors import ConfigError, FggpWarning, TargetBelowStart
from fggp_deploy.pruning.allocation import GLOBAL, MIN_LAYER_DENSITY
from fggp_deploy.pruning.criteria import Criterion
from fggp_deploy.pruning.masks import MaskSet, named_tensors
from fggp_deploy.pruning.methods import Measured, Method
from fggp_deploy.pruning.methods.gradual import Gradual
from fggp_deploy.pruning.methods.state import PruningState
from fggp_deploy.pruning.prunable import (
    left_out,
    many_left_out,
    prunable_parameters,
    weight_parameters,
)
from fggp_deploy.pruning.schedules import Schedule
from fggp_deploy.pruning.wrappers import unwrapped

__all__ = ["Pruner", "check_reachable", "initial_masks", "prunable_parameters", "weight_parameters"]


def initial_masks(
    model: nn.Module,
    given: Mapping[str, torch.Tensor] | None = None,
    *,
    prune_first: bool = False,
    keep_dense: Sequence[str] = (),
) -> MaskSet:
    """The masks at the start: from `given` if it has the weight, else the non-zero weights."""
    params = prunable_parameters(model, prune_first=prune_first, keep_dense=keep_dense)
    return MaskSet(_kept(params, given))


def _kept(
    params: Mapping[str, nn.Parameter], given: Mapping[str, torch.Tensor] | None
) -> dict[str, torch.Tensor]:
    kept = {
        n: p.detach() != 0 for n, p in params.items()
    }  # with the memory layout of the parameter
    for name in kept.keys() & (given or {}).keys():
        kept[name].copy_((given or {})[name])
    return kept


class Pruner:
    """Prunes a model while your loop trains it.

    `method`: a Criterion, which also needs a `schedule` and then prunes gradually, or any Method.
    `pattern` "1x4" lets the criterion remove four consecutive inputs at once, and `allocation`
    fixes how many weights each layer loses; see Gradual.
    `min_layer_density`: the layer floor. No layer keeps less than this fraction of its weights or
    one weight per output, whichever is more (see allocation.floors). A warning names each layer
    that reaches its floor. 0 means no floor; a run that would empty a layer then ends with
    LayerCollapse.
    `masks`: the weights that are kept at the start, by default the non-zero weights, so that the
    zeros of a sparse checkpoint stay zero. Zeros of other Conv and Linear weights stay zero too.
    `also`: other copies of the weights, such as a moving average: networks with the same names, or
    tensors by name. The copies get the zeros too when the masks change and at finish().
    `model` and copies may be wrapped: DDP, DataParallel, torch.compile, AveragedModel.
    `begin`: False if load_state_dict follows, so that a method that chooses weights at the start
    does not do so again.

    Attribute `left_out`: parameters that are never pruned, by name, with the reason. A warning
    names them if they hold more than 1% of the weights.

    Steps are optimizer steps; a step that a GradScaler skips does not count. If several processes
    of torch.distributed train one model, each has its own Pruner, and the masks are compared at
    every update: RanksDiffer is raised if they differ.
    Raises TargetBelowStart if the start is sparser than the end of the schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Criterion | Method,
        schedule: Schedule | None = None,
        *,
        optimizer: torch.optim.Optimizer | None,
        also: Sequence[nn.Module | Mapping[str, torch.Tensor]] = (),
        pattern: str | None = None,
        masks: Mapping[str, torch.Tensor] | None = None,
        prune_first: bool = False,
        keep_dense: Sequence[str] = (),
        allocation: str = GLOBAL,
        min_layer_density: float = MIN_LAYER_DENSITY,
        begin: bool = True,
    ) -> None:
        self._weights = weights = weight_parameters(model)
        self.left_out = left_out(model)
        self._copies = [copy_of(self._weights, other) for other in also]
        self._copied: MaskSet | None = None  # the masks that the copies have
        start = initial_masks(model, masks, prune_first=prune_first, keep_dense=keep_dense)
        fixed = MaskSet(
            {n: m for n, m in _kept(weights, masks).items() if n not in start and not m.all()}
        )
        self.state = PruningState(
            params={n: weights[n] for n in start},
            masks=start,
            optimizer=optimizer,
            fixed_params={n: weights[n] for n in fixed},
            fixed=fixed,
            model=unwrapped(model),
            min_layer_density=min_layer_density,
        )
        if optimizer is not None:
            theirs = {id(p) for group in optimizer.param_groups for p in group["params"]}
            if foreign := [n for n, p in self.state.params.items() if id(p) not in theirs]:
                raise ConfigError(
                    f"the optimizer does not hold the parameter {foreign[0]}; pass an optimizer "
                    "of this model's parameters"
                )
        if schedule is not None:
            check_reachable(self.state.masks, schedule.sparsity(schedule.last_update))
            self.method: Method = Gradual(
                cast(Criterion, method), schedule, pattern=pattern, allocation=allocation
            )
        elif hasattr(method, "drop"):
            raise ConfigError(
                "a criterion needs a schedule, got None; write Pruner(model, FGGP(), "
                "Cubic(target=0.9, steps=1000))"
            )
        elif pattern is not None or allocation != GLOBAL:
            what = "allocation" if pattern is None else "pattern"
            raise ConfigError(
                f"Pruner takes `{what}` only with a criterion, got a method; leave it out, and "
                "give the method its own option if it has one"
            )
        else:
            self.method = method
        if (schedule is None or schedule.last_update) and (warning := many_left_out(model)):
            warnings.warn(warning, FggpWarning, stacklevel=2)
        self.step = 0
        self.changed_at = 0  # the step of the latest mask update
        self._stepped = optimizer is None
        self._state_was_empty = False
        if optimizer is not None:
            optimizer.register_step_pre_hook(self._before_optimizer_step)
            optimizer.register_step_post_hook(self._on_optimizer_step)
        if begin:
            self.method.start(self.state)
        if self.state.masks is not start:
            self._check_masks_same_on_ranks("at the start")

    def _on_optimizer_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Record whether the step happened: a GradScaler calls a fused optimizer also to skip.

        If torch's fused SGD skips its first step, it leaves momentum that was never set.
        """
        self._stepped = not bool(getattr(optimizer, "found_inf", False))
        if not self._stepped and self._state_was_empty:
            optimizer.state.clear()

    def _before_optimizer_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._state_was_empty = not any(optimizer.state.values())

    @property
    def masks(self) -> MaskSet:
        """The current masks."""
        return self.state.masks

    def after_backward(self) -> None:
        """Call once per step, after the gradients are final (accumulated, all-reduced).

        Scaling the loss changes no choice, because only the order of the gradients matters. Methods
        that add to the gradients, such as GReg, need unscaled gradients.
        """
        before = self.state.masks
        self.method.after_backward(self.state, self.step + 1)
        if self.state.masks is not before:
            self.changed_at = self.step + 1
            self._check_masks_same_on_ranks(f"after the update at step {self.step + 1}")

    def _check_masks_same_on_ranks(self, when: str) -> None:
        Ranks.current().check_same(
            self.state.masks.digest,
            f"the masks differ between the processes {when}; all processes must hold the same "
            f"weights and averaged gradients when they call after_backward()",
        )

    def after_step(self) -> None:
        """Call after optimizer.step()."""
        if not self._stepped:
            return
        self._stepped = self.state.optimizer is None
        self.step += 1
        self.method.after_step(self.state, self.step)
        if self._copied is not self.state.masks:
            self._mask_copies()

    def _mask_copies(self) -> None:
        self._copied = self.state.masks
        for tensors in self._copies:
            self.all_masks().apply_(tensors)

    def all_masks(self) -> MaskSet:
        """The masks, and the masks of other weights whose zeros stay zero."""
        return MaskSet({**self.state.masks, **self.state.fixed})

    def state_dict(self) -> dict[str, Any]:
        """Masks, step and the method's state; the model and the optimizer have their own."""
        return {
            "step": self.step,
            "changed_at": self.changed_at,
            "stepped": self._stepped,
            "at_floor": sorted(self.state.at_floor),
            "method": self.method.state_dict(),
            "masks": dict(self.state.masks),
            "fixed": dict(self.state.fixed),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned, for the same model and options.

        Raises ConfigError if the masks belong to other parameters.
        """
        for key, params_key in (("masks", "params"), ("fixed", "fixed_params")):
            masks = state[key]
            if unfit := [
                n for n, m in masks.items()
                if n not in self._weights or self._weights[n].shape != m.shape
            ]:  # fmt: skip
                raise ConfigError(f"the mask of {unfit[0]!r} does not fit a weight of this model")
            params = {n: self._weights[n] for n in masks}
            setattr(self.state, params_key, params)
            setattr(self.state, key, MaskSet(_kept(params, masks)))
        self.step, self._stepped = int(state["step"]), bool(state["stepped"])
        self.changed_at = int(state.get("changed_at", 0))
        self.state.at_floor = set(state.get("at_floor", ()))
        self.method.load_state_dict(state["method"])

    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """The method's own measurements, by parameter; most methods have none."""
        return self.method.metrics() if isinstance(self.method, Measured) else {}

    def finish(self) -> MaskSet:
        """The final masks, which are also applied to the weights and to their copies."""
        masks = self.method.finish(self.state)
        self._mask_copies()
        return masks


def copy_of(
    weights: Mapping[str, nn.Parameter], other: nn.Module | Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    """The tensors of another copy of these weights, by name; ConfigError if it is not a copy."""
    tensors = named_tensors(other)
    for name, p in weights.items():
        if name not in tensors or tensors[name].shape != p.shape:
            got = tuple(tensors[name].shape) if name in tensors else "missing"
            raise ConfigError(
                f"a copy in `also` must have the network's weights, but its {name} is {got}, not "
                f"{tuple(p.shape)}"
            )
    return tensors


def check_reachable(masks: MaskSet, target: float) -> None:
    """Raise TargetBelowStart if more weights are removed already than `target` asks for."""
    if masks.n_removed > round(target * masks.n_total):
        raise TargetBelowStart(
            f"the checkpoint is already {masks.sparsity:.2%} sparse but --target is {target:g}; "
            f"give a target above {masks.sparsity:.4f}"
        )
