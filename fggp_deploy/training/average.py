"""Running mean and variance of the weights over the last steps, for averaging and ensembles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Average:
    """Mean and optionally Σ(w − mean)² of each parameter over `n` steps (Welford's algorithm).

    Sources: Izmailov et al. 2018 (arXiv 1803.05407) for the equal mean; Maddox et al. 2019 (arXiv
    1902.02476), its diagonal part, for a Gaussian with each weight's own variance. Both papers
    sample once per epoch; this class samples at every step.
    """

    mean: dict[str, Tensor]
    squares: dict[str, Tensor] | None = None
    n: int = 1

    @classmethod
    def begin(cls, weights: Mapping[str, Tensor], *, spread: bool) -> Average:
        """The average of one step; `spread`: keep the variance too."""
        mean = {n: w.detach().clone() for n, w in weights.items()}
        return cls(mean, {n: torch.zeros_like(w) for n, w in mean.items()} if spread else None)

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor], *, decay: float = 0.0) -> None:
        """Add a step: all steps with equal weight, or mean ← decay·mean + (1 − decay)·w."""
        self.n += 1
        share = 1 - decay if decay else 1 / self.n
        now = [weights[n].detach() for n in self.mean]
        mean = list(self.mean.values())
        if self.squares is not None:
            before = torch._foreach_sub(now, mean)
            torch._foreach_lerp_(mean, now, share)
            after = torch._foreach_sub(now, mean)
            torch._foreach_addcmul_(list(self.squares.values()), before, after)
        else:
            torch._foreach_lerp_(mean, now, share)

    def sample(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights drawn from the Gaussian of this mean and variance, with a CPU generator."""
        assert self.squares is not None  # the caller began with spread=True
        drawn = {}
        for name, mean in self.mean.items():
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            variance = self.squares[name] / max(1, self.n - 1)
            drawn[name] = mean + variance.clamp_min(0).sqrt() * noise
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain types."""
        return {"mean": self.mean, "squares": self.squares, "n": self.n}

    @classmethod
    def of_state(cls, state: Mapping[str, Any], like: Mapping[str, Tensor]) -> Average:
        """Restore what `state_dict` returned, on the devices and in the layouts of `like`."""

        def placed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {n: torch.empty_like(p.detach()).copy_(tensors[n]) for n, p in like.items()}

        squares = state["squares"]
        return cls(
            placed(state["mean"]), None if squares is None else placed(squares), int(state["n"])
        )
