"""timm's networks and published weights, if timm is installed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from fggp_deploy.common.torchvision_import import import_torchvision
from fggp_deploy.errors import ConfigError, MachineError, UnknownName
from fggp_deploy.models.published import Published, cached


def _timm() -> Any:
    import_torchvision()  # timm imports it, and it may need help
    try:
        import timm
    except ImportError as e:
        raise MachineError(
            f"timm:NAME needs timm, which cannot be imported ({e}); pip install timm"
        ) from e
    return timm


def names() -> list[str]:
    """All architectures, without the tags of weights."""
    return list(_timm().list_models())


def input_shape(name: str) -> tuple[int, int, int]:
    """(channels, height, width) of the network's default input."""
    channels, height, width = _timm().get_pretrained_cfg(name).input_size
    return channels, height, width


def check(name: str) -> None:
    """Raise UnknownName if timm lacks the network, MachineError if timm is not installed."""
    timm = _timm()
    if not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models())


def build(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """Create the network with random weights; `name` may have a tag, as in resnet18.a1_in1k."""
    try:
        net: nn.Module = _timm().create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=in_channels
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as e:
        raise ConfigError(f"timm:{name} cannot be created: {e}") from e
    return net


def published(name: str, weights: str) -> Published:
    """timm's description of its weights; `weights`: DEFAULT or a tag such as a1_in1k."""
    timm = _timm()
    architecture = name.partition(".")[0]
    full = name if weights == "DEFAULT" else f"{architecture}.{weights}"
    try:
        entry = timm.models.get_pretrained_cfg(full, allow_unregistered=False)
    except RuntimeError:
        entry = None
    if entry is None or not entry.hf_hub_id:
        tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
        raise UnknownName(f"weights of timm:{name}", weights, tags)
    file = entry.hf_hub_filename or "model.safetensors"
    size = entry.input_size[-1]
    return Published(
        f"https://huggingface.co/{entry.hf_hub_id}/resolve/main/{file}",
        f"{entry.hf_hub_id}-{file}".replace("/", "--"),
        tuple(entry.mean), tuple(entry.std), math.floor(size / entry.crop_pct), size,
        entry.interpolation,
    )  # fmt: skip


def all_published(name: str) -> list[Published]:
    """Every set of weights that timm publishes for a network."""
    architecture = name.partition(".")[0]
    tags = [n.partition(".")[2] for n in _timm().list_pretrained(f"{architecture}.*")]
    return [published(architecture, t) for t in tags]


def fetch(weights: Published) -> Path:
    """The file in the Hugging Face hub's cache, or otherwise in torch.hub's."""
    from huggingface_hub import try_to_load_from_cache

    _, _, _, owner, repository, _, revision, file = weights.url.split("/")
    found = try_to_load_from_cache(f"{owner}/{repository}", file, revision=revision)
    return Path(found) if isinstance(found, str) else cached(weights)
