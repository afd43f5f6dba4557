"""torchvision's classification networks and their published weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from fggp_deploy.common.torchvision_import import import_torchvision
from fggp_deploy.errors import ConfigError, UnknownName
from fggp_deploy.models.published import Published, cached

# Without auxiliary classifiers, which only help training from scratch and add outputs.
_NO_AUXILIARY = {"aux_logits": False, "init_weights": True}
_OPTIONS: dict[str, dict[str, bool]] = {"googlenet": _NO_AUXILIARY, "inception_v3": _NO_AUXILIARY}
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_INCEPTIONS = ("inception3a.", "Mixed_5b.")
# With published weights, torchvision normalizes the input of these two again inside the network,
# from ImageNet's mean and std to 0.5 and 0.5. Here the preprocessing does this, not the network.
_HALF = ("googlenet", "inception_v3")


def _models() -> Any:
    import_torchvision()
    import torchvision.models

    return torchvision.models


def names() -> list[str]:
    """The classification networks, without detection, video and quantized ones."""
    models = _models()
    return list(models.list_models(module=models))


def check(name: str) -> None:
    """Raise UnknownName if torchvision lacks the network."""
    if name not in (known := names()):
        raise UnknownName("torchvision model", name, known)


def build(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """Create the network with random weights; raises ConfigError unless it gets 3 channels."""
    if in_channels != 3:
        raise ConfigError(
            f"torchvision:{name} takes color images (3 channels) but the data has {in_channels}; "
            "use a built-in network, see `fggp-deploy models`"
        )
    options = _OPTIONS.get(name, {})
    net: nn.Module = _models().get_model(name, weights=None, num_classes=num_classes, **options)
    return net


def is_auxiliary(name: str, network: Iterable[str]) -> bool:
    """True for a parameter of an auxiliary classifier in a network with these names."""
    return name.startswith(_AUXILIARY) and any(n.startswith(_INCEPTIONS) for n in network)


def published(name: str, weights: str) -> Published:
    """torchvision's description of its weights; `weights`: DEFAULT or e.g. IMAGENET1K_V1."""
    known = _models().get_model_weights(name).__members__
    if weights not in known:
        raise UnknownName(f"weights of torchvision:{name}", weights, known)
    entry = known[weights]
    images = entry.transforms()
    mean, std = ((0.5,) * 3,) * 2 if name in _HALF else (tuple(images.mean), tuple(images.std))
    return Published(
        entry.url, entry.url.rpartition("/")[2],
        mean, std, images.resize_size[0], images.crop_size[0], images.interpolation.value,
    )  # fmt: skip


def all_published(name: str) -> list[Published]:
    """Every set of weights that torchvision publishes for a network."""
    return [published(name, w) for w in _models().get_model_weights(name).__members__]


def n_parameters(name: str) -> int:
    """Number of parameters with ImageNet's 1000 classes, from torchvision's metadata."""
    return int(_models().get_model_weights(name).DEFAULT.meta["num_params"])


fetch = cached
