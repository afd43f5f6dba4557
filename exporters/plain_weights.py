"""Reads plain weights that were pruned elsewhere, as if they were a checkpoint of a run.

Such a file records neither its network nor how images are prepared for it. The user names the
network. What else the user does not give is assumed, and listed in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fggp_deploy import models
from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo
from fggp_deploy.checkpoints.foreign import read_foreign
from fggp_deploy.common.user_code import raised
from fggp_deploy.data import Preprocessing, Reading
from fggp_deploy.data.reading import of_kind, with_options
from fggp_deploy.errors import CheckpointError, ConfigError, UnknownName
from fggp_deploy.models.checkpointing import to_checkpoint
from fggp_deploy.models.loading import load_into, translate
from fggp_deploy.models.probing import count_macs
from fggp_deploy.models.search import fitting, sizes
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.pruner import weight_parameters

from . import Note
from .options import ExportOptions, ImageOptions

OUR_SIZE = 32  # pixels of the images that the networks of this package are made for


def read(path: Path, options: ExportOptions, *, note: Note) -> tuple[Checkpoint, nn.Module]:
    """The weights as a checkpoint, and the network with them in eval mode.

    `note` is called with what was assumed. Raises CheckpointError if the file cannot be read or
    does not fit the network, and ConfigError if a needed option is missing.
    """
    network, images, trust_code = options.network, options.images, options.trust_code
    state = read_foreign(path).tensors
    if network is None:
        raise CheckpointError(
            f"{path} holds plain weights and does not say which network they are for; give "
            f"--model NAME, or --model FILE.py:FACTORY --trust-code{_what_fits(state)}"
        )
    models.check(network, trust_code=trust_code)
    n_classes, channels = sizes(state) or (0, 0)
    channels = len(images.mean) if images.mean else channels
    n_classes = len(images.classes) if images.classes else n_classes
    if channels not in (1, 3) or not n_classes:
        raise ConfigError(
            f"{path} does not show how many channels and classes {network} has (it seems to have "
            f"{channels} and {n_classes}); give --mean and --std, one number a channel, and "
            f"--classes"
        )
    model = models.build(
        network, num_classes=n_classes, in_channels=channels, trust_code=trust_code
    )
    names = load_into(model, state, what=f"{path} in {network}")
    prepare = _preprocessing(network, images, channels)
    n_classes = _n_logits(model.eval(), network, prepare)
    if images.classes is not None and len(images.classes) != n_classes:
        raise ConfigError(
            f"--classes names {len(images.classes)} classes, but {network} has {n_classes}"
        )
    _tell_assumed(images, prepare, n_classes, note)
    info = CheckpointInfo(
        model=models.without_folder(network),
        data="",
        classes=images.classes or tuple(map(str, range(n_classes))),
        preprocessing=prepare,
        prunable=tuple(weight_parameters(model)),
        macs=count_macs(model, prepare.input_shape),
        names=names,
    )
    return to_checkpoint(model, MaskSet({}), info), model


def _what_fits(state: Mapping[str, Tensor]) -> str:
    fits = " or ".join(f"--model {fit.name}" for fit in fitting(state, translate)[:3])
    return f". It fits {fits}" if fits else ""


def _preprocessing(network: str, images: ImageOptions, channels: int) -> Preprocessing:
    """The given preprocessing; else that of the library's published weights; else the usual one."""
    base = _published(network)
    if base is None or base.channels != channels:
        if images.image_size is None and network not in models.MODELS:
            raise ConfigError(
                f"nobody says what images {network} takes; give --image-size, and --mean and "
                f"--std if it was not trained with the usual ones"
            )
        base = of_kind(OUR_SIZE, OUR_SIZE, gray=channels == 1)
    return with_options(
        base, Reading(image_size=images.image_size, mean=images.mean, std=images.std)
    )


def _published(network: str) -> Preprocessing | None:
    """The preprocessing of a library's published weights for the network; None if it has none."""
    if (theirs := models.library(network)) is None:
        return None
    try:
        known = theirs[0].published(theirs[1], "DEFAULT")
    except UnknownName:
        return None
    return Preprocessing(
        known.crop, known.crop, known.mean, known.std, known.resize, known.interpolation
    )


@torch.no_grad()
def _n_logits(model: nn.Module, network: str, prepare: Preprocessing) -> int:
    shape = prepare.input_shape
    try:
        logits = model(torch.zeros(1, *shape))
    except Exception as e:  # the network's own code may raise anything
        raise ConfigError(
            f"{network} does not run on images of {shape[0]}×{shape[1]}×{shape[2]} ({raised(e)}); "
            f"give the --image-size that it was trained with"
        ) from e
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"{network} turns an image into {got}; a classifier must give logits [1, classes]"
        )
    return logits.shape[1]


def _tell_assumed(images: ImageOptions, prepare: Preprocessing, n_classes: int, note: Note) -> None:
    assumed = []
    if images.image_size is None:
        assumed.append(f"--image-size {prepare.height}")
    if images.mean is None:
        mean, std = (",".join(f"{v:g}" for v in of) for of in (prepare.mean, prepare.std))
        assumed.append(f"--mean {mean} --std {std}")
    if images.classes is None:
        assumed.append(f"classes called 0 … {n_classes - 1} (--classes FILE names them)")
    if assumed:
        note(
            f"assumed: {', '.join(assumed)}; if the network was trained with others, the file "
            f"gives wrong predictions until you give them"
        )
