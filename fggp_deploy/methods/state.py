"""What a method sees of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fggp_deploy.errors import LayerCollapse
from fggp_deploy.masks import MaskSet


@dataclass
class PruningState:
    """A run's prunable parameters, masks and optimiser.

    `params`: name → prunable parameter. `masks`: their masks. `fixed`: masks of weights outside
    the prunable set that came as zeros and stay zero (`fixed_params` are those parameters).
    `model`: the network itself, not wrapped for several devices.
    """

    params: Mapping[str, nn.Parameter]
    masks: MaskSet
    optimizer: torch.optim.Optimizer | None
    fixed_params: Mapping[str, nn.Parameter] = field(default_factory=dict)
    fixed: MaskSet = field(default_factory=lambda: MaskSet({}))
    model: nn.Module = field(default_factory=nn.Module)

    def set_masks(self, masks: MaskSet, *, when: str) -> None:
        """Take new masks; raises LayerCollapse, and changes nothing, where they empty a layer."""
        if empty := set(masks.empty_layers()) - set(self.masks.empty_layers()):
            raise LayerCollapse(
                f"{when} would remove every weight of {', '.join(sorted(empty))}; keep it "
                f"with --keep-dense, lower the target, or use more updates"
            )
        self.masks = masks

    def flat_weights(self) -> Tensor:
        """All prunable weights, [P], in the masks' order."""
        return torch.cat([self.params[n].detach().reshape(-1) for n in self.masks])

    def flat_grads(self) -> Tensor:
        """All their gradients, [P]; zero where a parameter had no gradient."""
        return torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad.detach()).reshape(-1)
                for p in (self.params[n] for n in self.masks)
            ]
        )

    def grads_are_finite(self) -> bool:
        """False where any gradient that the optimiser would use is not, prunable or not.

        That is when a loss scaler skips the step, so nothing may be chosen from the others either.
        """
        groups = self.optimizer.param_groups if self.optimizer else [{"params": self._all()}]
        grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        return not grads or bool(torch.stack([g.isfinite().all() for g in grads]).all())

    def _all(self) -> list[nn.Parameter]:
        return [*self.params.values(), *self.fixed_params.values()]

    @torch.no_grad()
    def zero_removed_(self) -> None:
        """Set removed weights to zero, and every optimiser state of the weight's shape with them.

        Momentum and second moments of a removed weight would otherwise bring it back.
        """
        for params, masks in ((self.params, self.masks), (self.fixed_params, self.fixed)):
            masks.apply_(params)
            if self.optimizer is None:
                continue
            for name, removed in masks.removed.items():
                for value in self.optimizer.state.get(params[name], {}).values():
                    if isinstance(value, Tensor) and value.shape == removed.shape:
                        value.masked_fill_(removed, 0)
