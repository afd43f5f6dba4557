"""Finds the known networks that a state dict fits, without allocating their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fggp_deploy.errors import FggpError
from fggp_deploy.models import MODELS, build, torchvision_models

Translate = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, str | None]]
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Fit:
    """A network that a state dict fits exactly."""

    name: str
    num_classes: int
    in_channels: int


class _WithoutMemory(TorchFunctionMode):
    """Creates the weights of layers on the meta device, but other tensors of constructors as usual.

    Some of torchvision's networks cannot be created inside `torch.device("meta")`.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.empty:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def without_memory(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """The network with its weights on the meta device: only names and shapes."""
    with _WithoutMemory():
        return build(name, num_classes=num_classes, in_channels=in_channels)


def fitting(state: Mapping[str, Tensor], translate: Translate) -> list[Fit]:
    """The built-in networks, or else torchvision's, that `state` fits by names and shapes."""
    if (found_sizes := sizes(state)) is None:
        return []
    num_classes, in_channels = found_sizes
    for names in (MODELS, _of_size(state, num_classes)):
        found = [
            Fit(n, num_classes, in_channels)
            for n in names
            if _fits(n, state, translate, num_classes, in_channels)
        ]
        if found:
            return found
    return []


def sizes(state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Classes and channels that the weights seem to have; None if they are not for images.

    The head is nearly always the last weight, and the stem the first.
    """
    weights = [t for t in state.values() if t.ndim >= 2]
    num_classes = weights[-1].shape[0] if weights else 0
    in_channels = next((t.shape[1] for t in weights if t.ndim == 4), 0)
    if not (0 < num_classes < 100_000 and 0 < in_channels < 1_000):
        return None
    return num_classes, in_channels


def _fits(
    name: str, state: Mapping[str, Tensor], translate: Translate, num_classes: int, in_channels: int
) -> bool:
    try:
        net = without_memory(name, num_classes=num_classes, in_channels=in_channels)
    except FggpError:
        return False
    own = net.state_dict()
    found = {ours: state[n].shape for n, ours in translate(state, own).items() if ours is not None}
    need = {n: t.shape for n, t in own.items() if n in found or not n.endswith(_BUFFERS[2])}
    return found == need


def _of_size(state: Mapping[str, Tensor], num_classes: int) -> list[str]:
    """torchvision's networks that have as many parameters, with a head of `num_classes`."""
    head = [t for t in state.values() if t.ndim >= 2][-1]
    per_class = head[0].numel() + 1
    counted = (
        t.numel()
        for n, t in state.items()
        if not n.endswith(_BUFFERS) and not torchvision_models.is_auxiliary(n, state)
    )
    n_with_1000 = sum(counted) + (1000 - num_classes) * per_class
    names = torchvision_models.names()
    return [
        f"torchvision:{n}"
        for n in names
        if abs(torchvision_models.n_parameters(n) - n_with_1000) <= 64
    ]
