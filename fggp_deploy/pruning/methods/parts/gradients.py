"""Mean gradients and Hessian products over batches, for methods that score weights once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fggp_deploy.distributed.ranks import Ranks
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.methods.method import Batch
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.state import PruningState

Batches = Callable[[], Sequence[Batch]]


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    """Options of methods that score weights on data."""

    images: int = setting(512, "Number of training images for the scores.", least=1)


def mean_gradients(
    state: PruningState,
    batches: Sequence[Batch],
    *,
    along: Mapping[str, Tensor] | None = None,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Gradients of the prunable weights, or the Hessian times `along`, over batches and processes.

    Gradients are those of the mean cross-entropy of logits / `temperature`, with batch norms in
    training mode. Statistics, `.grad` and random generators are restored afterwards. Raises
    ConfigError if there is no batch.
    """
    if not batches:
        raise ConfigError("scoring weights by gradients needs images, got none; give a batch")
    params = dict(state.params)
    sums = {n: torch.zeros_like(p) for n, p in params.items()}
    with _untouched(state.model):
        for x, y in batches:
            loss = F.cross_entropy(state.model(x) / temperature, y)
            first = torch.autograd.grad(
                loss, list(params.values()), create_graph=along is not None, allow_unused=True
            )
            if along is not None:
                dots = [
                    (g * along[n]).sum()
                    for n, g in zip(params, first, strict=True)
                    if g is not None
                ]
                first = torch.autograd.grad(sum(dots), list(params.values()), allow_unused=True)  # type: ignore[arg-type]
            for name, g in zip(params, first, strict=True):
                if g is not None:
                    sums[name] += g.detach() / len(batches)
    Ranks.current().mean_(sums.values())
    return sums


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Within, training mode; then mode, buffers and random generators are restored."""
    training, buffers = model.training, [b.clone() for b in model.buffers()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        model.train()
        yield
    model.train(training)
    with torch.no_grad():
        for now, before in zip(model.buffers(), buffers, strict=True):
            now.copy_(before)
