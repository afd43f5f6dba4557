"""The list of known networks and their sizes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from fggp_deploy.errors import ConfigError, FggpError, MachineError
from fggp_deploy.models import MODELS, timm_models, torchvision_models
from fggp_deploy.models.search import without_memory
from fggp_deploy.pruning.pruner import prunable_parameters

OUR_CLASSES, IMAGENET_CLASSES, CHANNELS = 10, 1000, 3


@dataclass(frozen=True)
class Listed:
    """A network: its name for --model, its numbers of weights, and its input images."""

    name: str
    n_parameters: int
    n_prunable: int
    input: str
    num_classes: int
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def listing(pattern: str | None = None) -> list[Listed]:
    """The networks whose name matches a shell pattern; by default built-in and torchvision's.

    No weights are allocated. Raises ConfigError if nothing matches, and MachineError if the pattern
    asks for timm and timm is not installed.
    """
    found = [
        _measured(name, classes, images, source)
        for name, classes, images, source in _known(pattern)
        if pattern is None or fnmatch.fnmatchcase(name, pattern)
    ]
    listed = [f for f in found if f is not None]
    if not listed:
        raise ConfigError(f"no network is called {pattern!r}; patterns are as 'torchvision:vgg*'")
    return listed


def n_of_timm() -> int | None:
    """The number of networks in timm; None if it is not installed."""
    try:
        return len(timm_models.names())
    except MachineError:
        return None


def _known(pattern: str | None) -> Iterator[tuple[str, int, str, str]]:
    for name in MODELS:
        yield name, OUR_CLASSES, "32×32 and up", "fggp-deploy"
    for name in torchvision_models.names():
        crop = torchvision_models.published(name, "DEFAULT").crop
        yield f"torchvision:{name}", IMAGENET_CLASSES, f"3×{crop}×{crop}", "torchvision"
    if pattern is not None and pattern.startswith("timm:"):
        for name in timm_models.names():
            shape = "×".join(map(str, timm_models.input_shape(name)))
            yield f"timm:{name}", IMAGENET_CLASSES, shape, "timm"


def _measured(name: str, classes: int, images: str, source: str) -> Listed | None:
    try:
        net = without_memory(name, num_classes=classes, in_channels=CHANNELS)
        prunable = prunable_parameters(net)
    except (FggpError, NotImplementedError):  # some of timm's networks need real weights
        return None
    return Listed(
        name=name,
        n_parameters=sum(p.numel() for p in net.parameters()),
        n_prunable=sum(p.numel() for p in prunable.values()),
        input=images,
        num_classes=classes,
        source=source,
    )
