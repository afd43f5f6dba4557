"""Pruning at initialisation: random masks, SNIP, GraSP, SynFlow."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fggp_deploy.distributed.ranks import Ranks
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import ALLOCATIONS
from fggp_deploy.pruning.masks import MaskSet, random_masks
from fggp_deploy.pruning.methods.method import Batch, MethodInfo, Task
from fggp_deploy.pruning.methods.options import Options, setting
from fggp_deploy.pruning.methods.parts.once import AtStart, flat
from fggp_deploy.pruning.methods.parts.state import PruningState

Batches = Callable[[], Sequence[Batch]]
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class RandomMasks(AtStart):
    """Random masks: each layer keeps its share by `allocation`, which weights the generator draws.

    `allocation` "erk": density_l = min(1, ε·Σshape_l/Πshape_l) with the one ε that meets the target
    exactly, over the layer's shape [outputs, inputs/groups, kernel…]; "uniform": 1 − target
    everywhere. `generator`: a CPU generator, so that a seed gives the same masks on every device
    and rank. Raises ConfigError where the network is sparse already.

    Source: the densities: Evci et al. 2020, RigL (arXiv 1911.11134), section 3; random masks that
    stay: Liu et al. 2022 (arXiv 2202.02643).
    """

    def __init__(self, target: float, *, allocation: str, generator: torch.Generator) -> None:
        super().__init__(target)
        self.allocation = allocation
        self.generator = generator

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Draw them; raises ConfigError where the network is sparse already."""
        if state.masks.n_removed:
            raise ConfigError("random masks need a dense network; this one is sparse already")
        keep = state.kept_by(ALLOCATIONS[self.allocation], self.target)
        return random_masks(state.params, keep, generator=self.generator)


class SNIP(AtStart):
    """Single-shot pruning by connection sensitivity: keep the largest |g·w|.

    `batches()`: images and labels over whose mean cross-entropy g is taken; each of several
    processes gives its own, of one size.

    Source: Lee, Ajanthan & Torr 2019 (arXiv 1810.02340), eq. 6.
    """

    def __init__(self, target: float, batches: Batches) -> None:
        super().__init__(target)
        self.batches = batches

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Score once, over all layers."""
        grads = mean_gradients(state, self.batches())
        scores = {n: (g * state.params[n]).abs() for n, g in grads.items()}
        return self.drop_smallest(state, flat(state.masks, scores), n_drop)


class GraSP(AtStart):
    """Gradient signal preservation: drop the largest −w·Hg, which costs the gradient flow least.

    H is the Hessian of the mean cross-entropy of logits / `temperature`, g its gradient; of a
    network that is sparse already, both by the weights that are left. Of several processes each
    one's batch norms see its own images, also where they are synced in training.

    Source: Wang, Zhang & Grosse 2020 (arXiv 2002.07376), eq. 8; temperature 200 is public code's.
    """

    def __init__(self, target: float, batches: Batches, *, temperature: float = 200.0) -> None:
        super().__init__(target)
        self.batches = batches
        self.temperature = temperature

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Score once, over all layers."""
        batches = self.batches()
        with _twice_differentiable(state.model):
            grads = mean_gradients(state, batches, temperature=self.temperature)
            alive = {n: g * state.masks[n] for n, g in grads.items()}
            products = mean_gradients(state, batches, along=alive, temperature=self.temperature)
        scores = {n: state.params[n] * hg for n, hg in products.items()}
        return self.drop_smallest(state, flat(state.masks, scores), n_drop)


class SynFlow(AtStart):
    """Iterative synaptic flow pruning, without data: keep the largest |w|·∂R/∂|w|.

    R is the sum of the outputs of the network of all |θ| for an input of ones; after round k of
    `rounds` the density is (1 − target)^(k/rounds), so that no layer empties first. Scores are
    taken in double precision on a copy in eval mode, its batch norms without a mean.
    `input_shape`: [C, H, W].

    Source: Tanaka et al. 2020 (arXiv 2006.05467), algorithm 1.
    """

    def __init__(self, target: float, input_shape: tuple[int, ...], *, rounds: int = 100) -> None:
        super().__init__(target)
        if rounds < 1:
            raise ConfigError(f"rounds must be at least 1, got {rounds}")
        if not input_shape:
            raise ConfigError("SynFlow needs the shape of an image; give it, or a batch")
        self.input_shape = input_shape
        self.rounds = rounds

    def choose(self, state: PruningState, n_drop: int) -> MaskSet:
        """Score and drop, round by round."""
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


def mean_gradients(
    state: PruningState,
    batches: Sequence[Batch],
    *,
    along: Mapping[str, Tensor] | None = None,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Gradients of the prunable weights, or the Hessian times `along`, over batches and processes.

    Of the mean cross-entropy of logits / `temperature`, batch norms in training mode. What the
    passes change (statistics, `.grad`, the random generator) is put back. Raises ConfigError where
    there is no batch.
    """
    if not batches:
        raise ConfigError("there is no image to take a gradient of; give a batch")
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


def absolute(model: nn.Module) -> nn.Module:
    """A copy in eval mode and double precision in which every parameter is its magnitude.

    Batch norms lose their mean, so that what flows is never negative.
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


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Training mode within; afterwards mode, buffers and random generators as before."""
    training, buffers = model.training, [b.clone() for b in model.buffers()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        model.train()
        yield
    model.train(training)
    with torch.no_grad():
        for now, before in zip(model.buffers(), buffers, strict=True):
            now.copy_(before)


@contextlib.contextmanager
def _twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Attention in parts and batch norms by each process's own share within.

    Fused attention and synced batch norms have no second derivative.
    """
    synced = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    try:
        for m in synced:
            m.forward = partial(nn.BatchNorm1d.forward, m)  # type: ignore[method-assign]
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for m in synced:
            del m.forward


@dataclass(frozen=True, kw_only=True)
class RandomOptions(Options):
    """Options of random masks."""

    allocation: str = setting("erk", "Who gets how much of the mask.", choices=tuple(ALLOCATIONS))


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    """Options of what scores on data."""

    images: int = setting(512, "Training images that the score is taken over.", least=1)


@dataclass(frozen=True, kw_only=True)
class GraSPOptions(ScoreOptions):
    """GraSP's options."""

    temperature: float = setting(200.0, "What the logits are divided by.", above=0)


@dataclass(frozen=True, kw_only=True)
class SynFlowOptions(Options):
    """SynFlow's options."""

    rounds: int = setting(100, "Rounds of scoring and pruning.", least=1)


def _random(o: RandomOptions, task: Task) -> RandomMasks:
    generator = torch.Generator().manual_seed(task.seed)
    return RandomMasks(task.target, allocation=o.allocation, generator=generator)


def _snip(o: ScoreOptions, task: Task) -> SNIP:
    return SNIP(task.target, lambda: task.batches(o.images))


def _grasp(o: GraSPOptions, task: Task) -> GraSP:
    return GraSP(task.target, lambda: task.batches(o.images), temperature=o.temperature)


def _synflow(o: SynFlowOptions, task: Task) -> SynFlow:
    return SynFlow(task.target, task.input_shape, rounds=o.rounds)


RANDOM = MethodInfo(
    title="random masks at the start",
    source="densities: Evci et al. 2020, arXiv 1911.11134",
    make=_random,
    options=RandomOptions,
    starts=("random",),
    because="random masks would throw away what a trained network has learned",
)
SNIP_INFO = MethodInfo(
    title="one shot by |g·w| at initialisation",
    source="Lee, Ajanthan & Torr 2019, arXiv 1810.02340",
    make=_snip,
    options=ScoreOptions,
    starts=("random", "dense", "sparse"),
)
GRASP = MethodInfo(
    title="one shot by −w·Hg at initialisation",
    source="Wang, Zhang & Grosse 2020, arXiv 2002.07376",
    make=_grasp,
    options=GraSPOptions,
    starts=("random", "dense", "sparse"),
)
SYNFLOW = MethodInfo(
    title="100 rounds by synaptic flow at initialisation, without data",
    source="Tanaka et al. 2020, arXiv 2006.05467",
    make=_synflow,
    options=SynFlowOptions,
    starts=("random", "dense", "sparse"),
)
