"""Dynamic probabilistic pruning: each step samples masks from learned probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import ALLOCATIONS
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.method import MethodInfo
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.granularity import GRANULARITIES, Units, whole_units
from fggp_deploy.pruning.methods.parts.gumbel_top_k import (
    confidence,
    diversity,
    draw_order,
    drawn,
    entropy_gradient,
    gumbel,
    likeliest,
    relaxed_gradient,
)
from fggp_deploy.pruning.methods.state import PruningState

_SPREAD = 0.5  # standard deviation of the initial logits
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, kw_only=True)
class DPPOptions(Options):
    """DPP's options."""

    granularity: str = setting(
        "weight",
        "Units that are kept or removed as one: weights, kernels or filters. Linear layers always "
        "use weights.",
        choices=GRANULARITIES,
    )
    allocation: str = setting(
        "uniform", "How many weights each layer keeps.", choices=tuple(ALLOCATIONS)
    )
    until: float = setting(
        0.8, "Fraction of the run's steps that sample masks; then the most likely mask stays.",
        above=0, most=1,
    )  # fmt: skip
    logit_lr: float = setting(0.2, "Learning rate of the logits (Adam).", above=0)
    entropy: float = setting(
        5e-5, "Weight of the entropy penalty (paper: 5e-5; 5e-3 for small dense networks).", least=0
    )
    tau: float = setting(5.0, "Initial temperature of the relaxation.", above=0)
    tau_to: float = setting(0.5, "Final temperature, reached linearly.", above=0)
    bits: int = setting(
        0, "Also train with weights of this many bits, straight-through; 0: full precision.",
        least=0, most=16,
    )  # fmt: skip


@dataclass
class _Layer:
    """The state of one layer. `logits`: Φ [rows, n]; `dense`: the weight without its mask."""

    units: Units
    k: Tensor
    logits: Tensor
    dense: Tensor


class DPP:
    """Keeps exactly k of the n units of each group, sampled by learnable logits Φ.

    The network of a step has the weights w∘m (with w rounded to `bits` unless that is 0). The mask
    m selects the k largest Φ + G of each group, with Gumbel noise G that is drawn once per step. w
    gets the gradient of the kept weights. Φ gets a straight-through gradient: the mask's gradient
    w·dL/d(w∘m) through the relaxation (gumbel_top_k.relaxed_gradient), plus the gradient of
    `entropy`·Σ_rows H(softmax Φ_row). Adam updates Φ. The temperature falls linearly from `tau` to
    `tau_to` during the first `until` of all `steps`. Then the k largest Φ stay, and w is trained
    under that mask.

    Each layer keeps a number of whole units by `allocation`; its groups keep k or k + 1 each. If
    that is less than one per group, the layer is a single group, so that the outputs that stay are
    learned too.
    Exactly round(target·N*) of N* weights are removed at any time; ConfigError if whole units
    cannot give that number. Gradients must be unscaled.

    Between steps the model holds w∘m. w itself is kept here and lent to the model for the
    optimizer's step. Noise depends only on `seed` and the step.

    Source: Gonzalez-Carabarin et al. 2021 (arXiv 2105.12686). Adam, its rate, and the steps under
    the final mask are ours.
    """

    def __init__(
        self, target: float, steps: int, options: DPPOptions | None = None, *, seed: int = 0
    ) -> None:
        if not 0 <= target < 1:
            raise ConfigError(f"target must be in [0, 1), got {target}")
        self.options = options or DPPOptions()
        if self.options.bits == 1:
            raise ConfigError("--method-set bits must be 0 or at least 2, got 1")
        self.target = target
        self.last_update = max(1, round(self.options.until * steps))
        self.seed = seed
        self._layers: dict[str, _Layer] = {}
        self._adam: torch.optim.Adam | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._scores: dict[str, tuple[Tensor, Tensor]] = {}  # Φ + G, and the order of the draw
        self._final = False
        self._lent = False

    def start(self, state: PruningState) -> None:
        """Draw the initial logits and masks; raises ConfigError if the network is sparse."""
        if state.masks.n_removed:
            raise ConfigError(
                f"the network is already {state.masks.sparsity:.2%} sparse; {_BECAUSE}"
            )
        self._set_up(state)
        self._draw(state, 0)
        self._apply(state)

    def after_backward(self, state: PruningState, step: int) -> None:
        """Update Φ, sample the next masks, and lend the optimizer the weights without masks."""
        self._set_up(state)
        if not state.grads_are_finite():  # a loss scaler skips such a step
            return
        drawing = not self._final
        for name, layer in self._layers.items():
            p = state.params[name]
            if p.grad is None:
                layer.logits.grad = None
                continue
            if drawing:
                layer.logits.grad = self._gradient(state, name, step)
            p.grad.mul_(state.masks[name])
        with torch.no_grad():
            for name, layer in self._layers.items():
                state.params[name].copy_(layer.dense)
        self._lent = True
        if drawing:
            assert self._adam is not None  # _set_up made it
            self._adam.step()
            if step < self.last_update:
                self._draw(state, step)
            else:
                self._finalize(state, f"step {step}")

    def after_step(self, state: PruningState, step: int) -> None:
        """Take the weights back, and mask them."""
        if self._lent:
            with torch.no_grad():
                for name, layer in self._layers.items():
                    layer.dense.copy_(state.params[name])
                    if self._final:
                        layer.dense.mul_(state.masks[name])
            self._lent = False
        self._apply(state)

    def finish(self, state: PruningState) -> MaskSet:
        """The k largest Φ of each group."""
        self._set_up(state)
        if not self._final:
            self._finalize(state, "the end")
            self._apply(state)
        return state.masks

    def metrics(self) -> dict[str, dict[str, float]]:
        """Confidence and diversity of each layer's masks, see gumbel_top_k."""
        return {
            measure.__name__: {
                n: measure(layer.logits.detach()) for n, layer in self._layers.items()
            }
            for measure in (confidence, diversity)
        }

    def state_dict(self) -> dict[str, Any]:
        """Logits, weights without masks, Adam's moments, and whether the masks are final."""
        if self._loaded is not None:
            return dict(self._loaded)
        assert self._adam is not None  # start made it
        return {
            "logits": {n: layer.logits.detach() for n, layer in self._layers.items()},
            "dense": {n: layer.dense for n, layer in self._layers.items()},
            "adam": self._adam.state_dict(),
            "settled": self._final,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        self._loaded = state

    def _set_up(self, state: PruningState) -> None:
        """Create each layer's logits, or use the loaded ones; does nothing the second time."""
        if self._layers and self._loaded is None:
            return
        loaded, self._loaded, self._scores = self._loaded, None, {}
        generator = torch.Generator().manual_seed(self.seed)
        for name, (units, n_kept) in self._counts(state).items():
            p = state.params[name]
            if loaded is None:
                logits = torch.randn(units.rows, units.n, generator=generator) * _SPREAD
                dense = p.detach().clone()
            else:
                logits = loaded["logits"][name].float().clone()
                rows, n = logits.shape  # older savepoints have other groups
                units = replace(units, rows=rows, n=n)
                dense = torch.empty_like(p.detach()).copy_(loaded["dense"][name])
            k = torch.tensor(units.by_row(n_kept), device=p.device)
            self._layers[name] = _Layer(units, k, logits.to(p.device).requires_grad_(), dense)
        logits_of_all = [layer.logits for layer in self._layers.values()]
        self._adam = torch.optim.Adam(logits_of_all, lr=self.options.logit_lr)
        if loaded is not None:
            adam = loaded["adam"]
            by_index = {int(i): dict(values) for i, values in adam["state"].items()}
            self._adam.load_state_dict({"state": by_index, "param_groups": adam["param_groups"]})
            self._final = bool(loaded["settled"])

    def _counts(self, state: PruningState) -> dict[str, tuple[Units, int]]:
        """The units of each layer, and how many of them it keeps."""
        o = self.options
        if o.granularity != "weight":
            weights = {id(m.weight) for m in state.model.modules() if isinstance(m, _TRANSPOSED)}
            if odd := [n for n, p in state.params.items() if id(p) in weights]:
                raise ConfigError(
                    f"{odd[0]} belongs to a transposed convolution, whose filters are not the "
                    f"first dimension of its weight; give --keep-dense {odd[0]!r} or --method-set "
                    "granularity=weight"
                )
        shapes = {n: tuple(m.shape) for n, m in state.masks.items()}
        units = {n: Units.of(s, o.granularity) for n, s in shapes.items()}
        try:
            kept = whole_units(units, ALLOCATIONS[o.allocation](shapes, self.target))
        except ConfigError as e:
            raise ConfigError(f"--target {self.target:g}, granularity {o.granularity}: {e}") from e
        return {n: (u.grouped(kept[n]), kept[n]) for n, u in units.items()}

    @torch.no_grad()
    def _gradient(self, state: PruningState, name: str, step: int) -> Tensor:
        """The gradient of Φ for the masks that were drawn after the previous step."""
        layer, p = self._layers[name], state.params[name]
        assert p.grad is not None  # the caller has checked it
        if not self._scores:  # a resumed run
            self._draw_scores(step - 1)
        pull = layer.units.sums(p.grad * self._rounded(layer.dense))
        progress = (step - 1) / max(1, self.last_update - 1)
        tau = self.options.tau + (self.options.tau_to - self.options.tau) * progress
        scores, order = self._scores[name]
        gradient = relaxed_gradient(scores, order, layer.k, pull, tau)
        return gradient.add_(entropy_gradient(layer.logits), alpha=self.options.entropy)

    def _draw_scores(self, step: int) -> None:
        """Φ + G of the masks that are drawn after this step, the same in every process."""
        device = next(iter(self._layers.values())).logits.device
        generator = torch.Generator(device).manual_seed((self.seed * 1_000_003 + step + 1) % 2**63)
        for name, layer in self._layers.items():
            scores = layer.logits + gumbel(tuple(layer.logits.shape), generator=generator)
            self._scores[name] = scores, draw_order(scores, layer.k)

    @torch.no_grad()
    def _draw(self, state: PruningState, step: int) -> None:
        self._draw_scores(step)
        kept = {
            n: drawn(self._scores[n][1], layer.k, layer.units.n)
            for n, layer in self._layers.items()
        }
        self._take(state, kept, f"the draw after step {step}")

    @torch.no_grad()
    def _finalize(self, state: PruningState, when: str) -> None:
        self._final, self._scores = True, {}
        kept = {n: likeliest(layer.logits, layer.k) for n, layer in self._layers.items()}
        self._take(state, kept, when)

    def _take(self, state: PruningState, kept: Mapping[str, Tensor], when: str) -> None:
        masks = {
            n: layer.units.spread(kept[n], state.masks[n]) for n, layer in self._layers.items()
        }
        state.set_masks(MaskSet(masks), when=when)

    @torch.no_grad()
    def _apply(self, state: PruningState) -> None:
        """Give the model w∘m, and keep initial zeros of other weights at zero."""
        for name, layer in self._layers.items():
            state.params[name].copy_(self._rounded(layer.dense) * state.masks[name])
        state.fixed.apply_(state.fixed_params)

    def _rounded(self, w: Tensor) -> Tensor:
        """w on 2^bits − 1 symmetric levels up to the largest |w|; w itself if bits is 0."""
        if not self.options.bits:
            return w
        step = w.abs().max() / (2 ** (self.options.bits - 1) - 1)
        return (w / step.clamp_min(torch.finfo(w.dtype).tiny)).round_().mul_(step)


_BECAUSE = "it samples masks among all weights, with even initial probabilities"
METHOD = MethodInfo(
    title="masks sampled in every step, k of n by learnable logits (Gumbel top-k)",
    source="Gonzalez-Carabarin et al. 2021, arXiv 2105.12686",
    make=lambda options, task: DPP(task.target, task.n_steps, options, seed=task.seed),
    options=DPPOptions,
    keeps="logits with Adam's moments, and the weights without their masks",
    starts=("dense", "random"),
    because=_BECAUSE,
    ties=lambda options: f"have {options.bits} bits" if options.bits else "",
)
