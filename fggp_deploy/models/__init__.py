"""Networks by name. Each entry is a factory (num_classes, in_channels) → nn.Module."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fggp_deploy.errors import UnknownName
from fggp_deploy.models.resnet import resnet10s2, resnet20, resnet50
from fggp_deploy.models.vgg import vgg19

MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet10s2": resnet10s2,
    "resnet20": resnet20,
    "resnet50": resnet50,
    "vgg19": vgg19,
}


def build(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """Make a registered network with random weights; raises UnknownName."""
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    return MODELS[name](num_classes, in_channels)
