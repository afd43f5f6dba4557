"""What a pruning method sees of a training run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fggp_deploy.errors import FggpWarning, LayerCollapse
from fggp_deploy.pruning.allocation import Shapes, at_least, floors, within
from fggp_deploy.pruning.masks import MaskSet


@dataclass
class PruningState:
    """The prunable parameters, masks and optimizer of a run.

    `params`: name → prunable parameter. `masks`: their masks. `fixed`: masks of other parameters
    (`fixed_params`) whose initial zeros stay zero. `model`: the network without wrappers.
    `min_layer_density`: see allocation.floors; with 0 a layer may lose all its weights.
    `at_floor`: the layers that have reached their floors.
    """

    params: Mapping[str, nn.Parameter]
    masks: MaskSet
    optimizer: torch.optim.Optimizer | None
    fixed_params: Mapping[str, nn.Parameter] = field(default_factory=dict)
    fixed: MaskSet = field(default_factory=lambda: MaskSet({}))
    model: nn.Module = field(default_factory=nn.Module)
    min_layer_density: float = 0.0
    at_floor: set[str] = field(default_factory=set)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the prunable parameters."""
        return {n: tuple(m.shape) for n, m in self.masks.items()}

    @property
    def layers(self) -> dict[str, slice]:
        """The position of each prunable parameter in the flat weights."""
        parts, end = {}, 0
        for name, mask in self.masks.items():
            parts[name] = slice(end, end := end + mask.numel())
        return parts

    def floors(self, target: float, *, masks: MaskSet | None = None) -> dict[str, int]:
        """The layer floors for `target`: the least weights that each parameter keeps.

        At most what `masks` (default: the current masks) keep. Raises as allocation.floors does.
        """
        least = floors(self.shapes, target, self.min_layer_density)
        return {n: min(least[n], k) for n, k in (masks or self.masks).n_alive.items()}

    def kept_by(
        self,
        allocate: Callable[[Shapes, float], Mapping[str, int]],
        sparsity: float,
        *,
        target: float | None = None,
    ) -> dict[str, int]:
        """Weights that each parameter keeps by an allocation, limited to those that are alive.

        No parameter gets less than its floor for `target` (default: `sparsity`).
        """
        keep = within(allocate(self.shapes, sparsity), self.masks.n_alive)
        return at_least(keep, self.floors(sparsity if target is None else target))

    def hold(self, names: list[str], least: Mapping[str, int], *, when: str) -> None:
        """Record layers that are held at their floors, and warn once about each."""
        if new := [n for n in names if n not in self.at_floor]:
            self.at_floor.update(new)
            named = ", ".join(f"{n} ({least[n]} of {self.masks[n].numel()})" for n in new)
            warnings.warn(
                f"{when}: these layers are at their floors: {named}; other layers lose more "
                f"instead. Layers this sparse may limit accuracy: see --min-layer-density, "
                f"--keep-dense, or --method-set allocation=erk",
                FggpWarning,
                stacklevel=4,
            )

    def set_masks(self, masks: MaskSet, *, when: str) -> None:
        """Replace the masks; raises LayerCollapse and changes nothing if they empty a layer."""
        if empty := set(masks.empty_layers()) - set(self.masks.empty_layers()):
            raise LayerCollapse(
                f"{when} would remove every weight of {', '.join(sorted(empty))}; give "
                f"--min-layer-density above 0, keep it with --keep-dense, or lower the target"
            )
        self.masks = masks

    def flat_weights(self) -> Tensor:
        """All prunable weights in the masks' order, [P]."""
        return torch.cat([self.params[n].detach().reshape(-1) for n in self.masks])

    def flat_grads(self) -> Tensor:
        """The gradients of all prunable weights, [P]; zero for a parameter without gradient."""
        return torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad.detach()).reshape(-1)
                for p in (self.params[n] for n in self.masks)
            ]
        )

    def grads_are_finite(self) -> bool:
        """True if every gradient that the optimizer would use is finite, prunable or not.

        Otherwise a loss scaler skips the step, so no weights may be chosen in it.
        """
        groups = self.optimizer.param_groups if self.optimizer else [{"params": self._all()}]
        grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        return not grads or bool(torch.stack([g.isfinite().all() for g in grads]).all())

    def _all(self) -> list[nn.Parameter]:
        return [*self.params.values(), *self.fixed_params.values()]

    @torch.no_grad()
    def zero_removed_(self) -> None:
        """Set removed weights to zero, and every optimizer state of the weight's shape too.

        Otherwise momentum and second moments would bring removed weights back.
        """
        for params, masks in ((self.params, self.masks), (self.fixed_params, self.fixed)):
            masks.apply_(params)
            if self.optimizer is None:
                continue
            for name, removed in masks.removed.items():
                for value in self.optimizer.state.get(params[name], {}).values():
                    if isinstance(value, Tensor) and value.shape == removed.shape:
                        value.masked_fill_(removed, 0)
