"""Forward passes that show what a network computes: the shape of its outputs, and its MACs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fggp_deploy.common.user_code import raised
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.pruner import weight_parameters


@torch.no_grad()
def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """Dense multiply-accumulates per image of each convolution, linear and attention weight.

    `input_shape` is [C, H, W]. Attention counts only its projections, because products of
    activations hold no weights.
    """
    names = {id(p): n for n, p in weight_parameters(model).items()}
    macs: dict[str, int] = {}

    def add(weight: Tensor, positions: int) -> None:
        name = names[id(weight)]
        macs[name] = macs.get(name, 0) + weight.numel() * positions

    def layer(module: nn.Module, _: object, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)  # only Conv and Linear carry this hook
        add(weight, output[0].numel() // weight.shape[0])

    def attention(
        module: nn.MultiheadAttention, args: tuple[Tensor, ...], given: Mapping[str, Any], _: object
    ) -> None:
        inputs = [*args, *(given[k] for k in ("query", "key", "value")[len(args) :])][:3]
        tokens = [x.numel() // x.shape[-1] for x in inputs]
        if module.in_proj_weight is None:
            apart = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
            for weight, n in zip(apart, tokens, strict=True):
                add(weight, n)
        else:
            add(module.in_proj_weight, sum(tokens) // 3)  # a third of it reads each input
        add(module.out_proj.weight, tokens[0])  # not called as a module

    hooks = [
        m.register_forward_hook(layer)
        for m in model.modules()
        if id(getattr(m, "weight", None)) in names
    ]
    hooks += [
        m.register_forward_hook(attention, with_kwargs=True)
        for m in model.modules()
        if isinstance(m, nn.MultiheadAttention)
    ]
    training = model.training
    device = next(model.parameters()).device
    model.eval()(torch.zeros(1, *input_shape, device=device))
    model.train(training)
    for h in hooks:
        h.remove()
    return macs


@torch.no_grad()
def check_runs(
    model: nn.Module,
    name: str,
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    images: str = "images",
) -> None:
    """Raise ConfigError unless the network turns images [C, H, W] into one tensor of logits.

    `images` is what a message calls them.
    """
    device = next(model.parameters()).device
    training = model.training
    try:
        logits = model.eval()(torch.zeros(2, *input_shape, device=device))
    except Exception as e:  # the network's own code may raise anything
        raise ConfigError(
            f"{name} does not run on {images}, {'×'.join(map(str, input_shape))} ({raised(e)}); "
            f"give data of a size that it accepts"
        ) from e
    finally:
        model.train(training)
    want = (2, n_classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != want:
        raise ConfigError(
            f"{name} turns 2 images into {_described(logits)}; a classifier of {n_classes} classes "
            f"must give one tensor of logits {want}: wrap it in an nn.Module whose forward() "
            f"returns that"
        )


def _described(outputs: Any) -> str:
    """The type and the sizes of a network's outputs."""
    if isinstance(outputs, Tensor):
        return str(tuple(outputs.shape))
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} of {', '.join(map(str, outputs))}"
    if isinstance(outputs, (tuple, list)):
        return f"{len(outputs)} outputs"
    return f"a {type(outputs).__name__}"
