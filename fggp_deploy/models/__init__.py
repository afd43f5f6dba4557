"""Networks by name: built-in ones, torchvision's, timm's, and a factory in a user's own file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn

from fggp_deploy.checkpoints.file_type import SUFFIXES
from fggp_deploy.common.user_code import load_function
from fggp_deploy.errors import ConfigError, UnknownName
from fggp_deploy.models import factory_file
from fggp_deploy.models.mobilenet import mobilenet_v2
from fggp_deploy.models.published import Published
from fggp_deploy.models.resnet import (
    BasicBlock,
    Bottleneck,
    PadShortcut,
    projection,
    resnet10s2,
    thin,
    wide,
)
from fggp_deploy.models.vgg import vgg

# All are for small images of 32×32 or more. Shortcuts are those of the papers: option A (without
# weights) in the thin networks, B (1×1 convolutions) in the wide ones; "-a" and "-b" select one.
MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "mobilenet_v2": mobilenet_v2,
    "resnet10s2": resnet10s2,
    "resnet18": wide(BasicBlock, (2, 2, 2, 2)),
    "resnet18-a": wide(BasicBlock, (2, 2, 2, 2), PadShortcut),
    "resnet20": thin(3),
    "resnet20-b": thin(3, projection),
    "resnet32": thin(5),
    "resnet32-b": thin(5, projection),
    "resnet44": thin(7),
    "resnet44-b": thin(7, projection),
    "resnet50": wide(Bottleneck, (3, 4, 6, 3)),
    "resnet50-a": wide(Bottleneck, (3, 4, 6, 3), PadShortcut),
    "resnet56": thin(9),
    "resnet56-b": thin(9, projection),
    "vgg11": vgg((1, 1, 2, 2, 2)),
    "vgg16": vgg((2, 2, 3, 3, 3)),
    "vgg19": vgg((2, 2, 4, 4, 4)),
}
LIBRARIES = ("torchvision", "timm")
FORMS = ("torchvision:NAME", "timm:NAME", "FILE.py:FACTORY")


def library(name: str) -> tuple[ModuleType, str] | None:
    """The module here for the library of `torchvision:NAME` or `timm:NAME`, and NAME."""
    prefix, colon, rest = name.partition(":")
    if not colon or prefix not in LIBRARIES:
        return None
    return importlib.import_module(f"{__name__}.{prefix}_models"), rest


def check(name: str, *, trust_code: bool = False) -> None:
    """Raise what `build` would raise because of the name, before any work is done."""
    if (theirs := library(name)) is not None:
        theirs[0].check(theirs[1])
    elif factory_file.is_spec(name):
        load_function(name, trust_code=trust_code)
    elif name.endswith(".py"):
        raise ConfigError(f"{name!r} is a file; give its function too, as {name}:make")
    elif name not in MODELS:
        raise UnknownName("model", name, (*MODELS, *FORMS))


def build(name: str, *, num_classes: int, in_channels: int, trust_code: bool = False) -> nn.Module:
    """Create a network with random weights.

    `name`: a key of MODELS, `torchvision:NAME`, `timm:NAME`, or `FILE.py:FACTORY`, whose code runs
    only with `trust_code`. Raises UnknownName; ConfigError for channels or code that do not fit;
    MachineError if the library is not installed.
    """
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    if factory_file.is_spec(name):
        return factory_file.build(name, trust_code=trust_code, **sizes)
    check(name)
    if (theirs := library(name)) is not None:
        net: nn.Module = theirs[0].build(theirs[1], **sizes)
        return net
    return MODELS[name](num_classes, in_channels)


def published(name: str, weights: str) -> tuple[Path, Published | None]:
    """The file of a network's published weights, and what is known of them.

    `weights`: DEFAULT or a name that the library knows, which is downloaded if it is not cached; or
    a path, whose file name may be that of published weights. Raises ConfigError for a network
    without published weights, UnknownName, and MachineError, which names the file to download by
    hand, if the download fails.
    """
    theirs = library(name)
    if theirs is not None:
        theirs[0].check(theirs[1])
    if is_path(weights):
        known = theirs[0].all_published(theirs[1]) if theirs else []
        file = Path(weights).name
        return Path(weights), next((k for k in known if k.file_name == file), None)
    if theirs is None:
        raise ConfigError(
            f"--weights {weights} is for torchvision:NAME and timm:NAME; give the weights of "
            f"{name} as --checkpoint PATH"
        )
    found: Published = theirs[0].published(theirs[1], weights)
    path: Path = theirs[0].fetch(found)
    return path, found


def is_path(weights: str) -> bool:
    """True for a path to a file, False for a name of weights."""
    path = Path(weights)
    return len(path.parts) > 1 or path.suffix in SUFFIXES or path.exists()


def recorded(name: str, run: Path) -> str:
    """The name of the network that a checkpoint in the folder `run` records."""
    return factory_file.recorded(name, run) if factory_file.is_spec(name) else name


def found_again(name: str, run: Path, sha256: str | None) -> str | None:
    """The name that builds the network of a recorded name; None if its file no longer exists."""
    return factory_file.found_again(name, run, sha256) if factory_file.is_spec(name) else name


def code_digest(name: str) -> str | None:
    """Hex SHA-256 of the user's file that creates the network; None for a network by name."""
    return factory_file.digest(name) if factory_file.is_spec(name) else None


def without_folder(name: str) -> str:
    """The name for artifacts: FILE.py:FACTORY without the folder of the file."""
    return Path(name).name if factory_file.is_spec(name) else name


def in_a_path(name: str) -> str:
    """The name in the form for folder names."""
    return without_folder(name).replace(":", "-").replace("/", "-")
