"""Which parameters of a network are prunable, and why the others are not."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.wrappers import unwrapped

_CONV = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
)  # fmt: skip
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_NORMS = (nn.LayerNorm, nn.RMSNorm)
# Why parameters of these modules are never pruned.
_OTHERS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.Embedding, nn.EmbeddingBag), "an embedding, which is looked up and not multiplied"),
    ((nn.RNNBase, nn.RNNCellBase), "of a recurrent layer"),
    (_NORMS, "of a norm"),
)
_NO_LAYER = "not of a convolution, linear or attention layer"
NO_SHAPE = (
    "has no shape yet because its layer is lazy; pass one batch of inputs through the network first"
)
_FROZEN = "frozen: it requires no gradient"


def weight_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name → weight of every Conv*, Linear and MultiheadAttention, in the modules' order.

    A shared weight appears once. Names are those of the inner model if it is wrapped. Raises
    ConfigError, which names the fix, for a weight that is computed from others or has no shape yet.
    """
    model = unwrapped(model)
    named = {id(p): (n, p) for n, p in model.named_parameters()}
    out: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        for attribute in _weights_of(module):
            weight = getattr(module, attribute)
            if weight is None:
                continue
            if id(weight) not in named:
                raise ConfigError(
                    f"{name}.{attribute} is not a parameter but computed from others, so it cannot "
                    f"be pruned; {_cure(name, module, attribute)}"
                )
            if is_lazy(weight):
                raise ConfigError(f"{name}.{attribute} {NO_SHAPE}")
            out.update([named[id(weight)]])
    return out


def prunable_parameters(
    model: nn.Module, *, prune_first: bool = False, keep_dense: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """Name → prunable parameter: every weight except that of the first convolution.

    `keep_dense`: shell patterns of parameter names (`layer1.*`, `fc.weight`) that are not pruned.
    Raises ConfigError if a pattern matches nothing or nothing is left.
    """
    weights = weight_parameters(model)
    out: set[str] = set()
    if not prune_first:
        convs = (m.weight for m in model.modules() if isinstance(m, _CONV))
        first = next(convs, None)
        out |= {n for n, p in weights.items() if p is first}
    for pattern in keep_dense:
        hits = [n for n in weights if fnmatch.fnmatchcase(n, pattern)]
        if not hits:
            raise ConfigError(
                f"--keep-dense {pattern!r} matches no weight; the weights are: {', '.join(weights)}"
            )
        out |= set(hits)
    prunable = {n: p for n, p in weights.items() if n not in out and p.requires_grad}
    if not prunable:
        raise ConfigError("no prunable weight is left; relax --keep-dense or use --prune-first")
    return prunable


def left_out(model: nn.Module) -> dict[str, str]:
    """Name → reason for every parameter of two or more dimensions that is never pruned.

    `prune_first` and `keep_dense` have no influence on this.
    """
    model = unwrapped(model)
    weights, reasons = weight_parameters(model), {}
    owners = {id(p): m for m in model.modules() for p in m.parameters(recurse=False)}
    for name, p in model.named_parameters():
        if name in weights:
            if not p.requires_grad:
                reasons[name] = _FROZEN
        elif p.ndim > 1:
            reasons[name] = next((r for k, r in _OTHERS if isinstance(owners[id(p)], k)), _NO_LAYER)
    return reasons


def many_left_out(model: nn.Module) -> str:
    """A line for the user if more than 1% of a network's weights are never pruned, else ""."""
    reasons = left_out(model)
    sizes = {n: p.numel() for n, p in unwrapped(model).named_parameters() if p.ndim > 1}
    n_left, total = sum(sizes[n] for n in reasons), sum(sizes.values())
    if n_left <= 0.01 * total:
        return ""
    largest = sorted(reasons, key=lambda n: -sizes[n])[:3]
    named = "; ".join(f"{n} ({sizes[n]:,}, {reasons[n]})" for n in largest)
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return (
        f"{n_left:,} of the network's {total:,} weights ({n_left / total:.1%}) "
        f"are not pruned and not counted: {named}{more}"
    )


def _weights_of(module: nn.Module) -> Iterator[str]:
    if isinstance(module, (*_CONV, nn.Linear)):
        yield "weight"
    elif isinstance(module, nn.MultiheadAttention):
        yield from _ATTENTION


def _cure(name: str, module: nn.Module, attribute: str) -> str:
    """The call that makes a computed weight a parameter again, as Python in backquotes."""
    part = f"model.get_submodule({name!r})"
    if parametrize.is_parametrized(module, attribute):
        return f"`torch.nn.utils.parametrize.remove_parametrizations({part}, {attribute!r})`"
    hooks = module._forward_pre_hooks.values()
    if any(isinstance(h, BasePruningMethod) and h._tensor_name == attribute for h in hooks):
        return f"`torch.nn.utils.prune.remove({part}, {attribute!r})` keeps its zeros"
    if any(isinstance(h, WeightNorm) and h.name == attribute for h in hooks):
        return f"`torch.nn.utils.remove_weight_norm({part}, {attribute!r})`"
    if any(isinstance(h, SpectralNorm) and h.name == attribute for h in hooks):
        return f"`torch.nn.utils.remove_spectral_norm({part}, {attribute!r})`"
    return "make it an nn.Parameter, or use a layer class of your own, which is not pruned"
