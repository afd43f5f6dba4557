"""Which of the known networks a state dict fits, tried on networks without memory."""

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
    """A network that takes a state dict exactly."""

    name: str
    num_classes: int
    in_channels: int


class _WithoutMemory(TorchFunctionMode):
    """Makes layers' weights on the meta device, and leaves real what constructors compute with.

    `with torch.device("meta")` would stop some of torchvision's.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.empty:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def without_memory(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """The network with its layers' weights on the meta device: names and shapes alone."""
    with _WithoutMemory():
        return build(name, num_classes=num_classes, in_channels=in_channels)


def fitting(state: Mapping[str, Tensor], translate: Translate) -> list[Fit]:
    """Every network of ours, or else of torchvision's, that `state` fits by names and shapes."""
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
    """Classes and channels that weights seem to be for; None if they do not look like an image's.

    The head is nearly always the last weight and the stem the first.
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
