"""SynFlow: pruning at initialization in many rounds, without data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fggp_deploy.distributed.ranks import Ranks
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods.method import MethodInfo, Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.at_start import AtStart, flat
from fggp_deploy.pruning.methods.state import PruningState

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SynFlow(AtStart):
    """Iterative synaptic flow pruning, without data: keep the largest |w|·∂R/∂|w|.

    R is the sum of the outputs for an input of ones, with every parameter θ replaced by |θ|. After
    round k of `rounds` the density is (1 − target)^(k/rounds), so that no layer becomes empty
    first. Scores are computed in double precision on a copy in eval mode whose batch norms have no
    mean. `input_shape`: [C, H, W].

    Source: Tanaka et al. 2020 (arXiv 2006.05467), algorithm 1.
    """

    def __init__(self, target: float, input_shape: tuple[int, ...], *, rounds: int = 100) -> None:
        super().__init__(target)
        if rounds < 1:
            raise ConfigError(f"rounds must be at least 1, got {rounds}")
        if not input_shape:
            raise ConfigError("SynFlow needs the shape of an image; give `input_shape` or a batch")
        self.input_shape = input_shape
        self.rounds = rounds

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Score and drop in every round."""
        masks, linear = state.masks, absolute(state.model)
        n_total, n_before = masks.n_total, masks.n_removed
        n_kept, n_end = n_total - n_before, n_total - n_before - n_drop
        for k in range(1, self.rounds + 1):
            n_keep = (
                n_end if k == self.rounds else round(n_kept * (n_end / n_kept) ** (k / self.rounds))
            )
            scores = synaptic_flow(linear, list(masks), self.input_shape)
            n_now = n_total - masks.n_removed - n_keep
            masks = self.drop_smallest(state, flat(masks, scores), n_now, masks=masks)
            masks.apply_(dict(linear.named_parameters()))
        return masks


def absolute(model: nn.Module) -> nn.Module:
    """A copy in eval mode and double precision in which every parameter is its magnitude.

    Batch norms have no mean, so that no value in the network is negative.
    """
    linear = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for p in linear.parameters():
            p.abs_()
        for m in linear.modules():
            if isinstance(m, _NORMS) and m.running_mean is not None:
                m.running_mean.zero_()
    return linear


def synaptic_flow(
    linear: nn.Module, names: Sequence[str], input_shape: tuple[int, ...]
) -> dict[str, Tensor]:
    """|w|·∂R/∂|w| of the named parameters of an `absolute` network, the same in all processes."""
    params = {n: linear.get_parameter(n) for n in names}
    device = next(linear.parameters()).device
    out = linear(torch.ones(1, *input_shape, dtype=torch.float64, device=device)).sum()
    grads = torch.autograd.grad(out, list(params.values()), allow_unused=True)
    scores = {
        n: torch.zeros_like(p) if g is None else (p * g).detach()
        for (n, p), g in zip(params.items(), grads, strict=True)
    }
    Ranks.current().mean_(scores.values())
    return scores


@dataclass(frozen=True, kw_only=True)
class SynFlowOptions(Options):
    """SynFlow's options."""

    rounds: int = setting(100, "Rounds of scoring and pruning.", least=1)


def _make(o: SynFlowOptions, task: Task) -> SynFlow:
    return SynFlow(task.target, task.input_shape, rounds=o.rounds)


METHOD = MethodInfo(
    title="100 rounds by synaptic flow at initialization, without data",
    source="Tanaka et al. 2020, arXiv 2006.05467",
    make=_make,
    options=SynFlowOptions,
    starts=("random", "dense", "sparse"),
)
