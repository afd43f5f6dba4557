"""Turn a network into one of our checkpoints, and a checkpoint into a network."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from fggp_deploy import models
from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo
from fggp_deploy.checkpoints.run_folder import run_of
from fggp_deploy.errors import CheckpointError, FggpWarning
from fggp_deploy.models import factory_file
from fggp_deploy.models.loading import load_into
from fggp_deploy.pruning.masks import MaskSet


def restore(
    checkpoint: Checkpoint, path: Path, *, network: str | None = None, trust_code: bool = False
) -> nn.Module:
    """The network of the checkpoint at `path`, on the CPU, in eval mode.

    A network from the user's own file needs `trust_code`. `network`: see network_of.
    """
    info = checkpoint.info
    if info is None:
        raise CheckpointError(
            f"{path} does not name the network that it belongs to; prune it first"
        )
    model = models.build(
        network_of(info, path, given=network),
        num_classes=len(info.classes),
        in_channels=info.preprocessing.channels,
        trust_code=trust_code,
    )
    state = {n: torch.from_numpy(a.copy()) for n, a in checkpoint.tensors.items()}
    load_into(model, state, what=f"{path} in {network or info.model}")
    return model.eval()


def network_of(info: CheckpointInfo, path: Path, *, given: str | None = None) -> str:
    """The name that builds the network of the checkpoint at `path`: `given`, or the recorded one.

    Raises CheckpointError if the network came from a file of the user's own that is missing. Warns
    if that file has changed.
    """
    name = given or models.found_again(info.model, run_of(path), info.model_code_sha256)
    if name is None:
        raise CheckpointError(
            f"{path} was made with {models.without_folder(info.model)}, and that file is not at "
            f"{factory_file.recorded_place(info.model, run_of(path))}; name its new place: "
            f"--model PATH/{models.without_folder(info.model)} --trust-code"
        )
    warn_of_changed_code(info, name, path)
    return name


def warn_of_changed_code(info: CheckpointInfo, name: str, path: Path) -> None:
    """Warn if the user's own file `name` is not the one that the checkpoint was made with."""
    now = models.code_digest(name)
    if info.model_code_sha256 is not None and now is not None and now != info.model_code_sha256:
        warnings.warn(
            f"{factory_file.path_of(name)} is not the file that {path} was made with (its SHA-256 "
            f"differs); if it computes something else, the results are wrong",
            FggpWarning,
            stacklevel=3,
        )


def to_checkpoint(model: nn.Module, masks: MaskSet, info: CheckpointInfo) -> Checkpoint:
    """A checkpoint of the model's current state; masks that remove nothing are left out."""
    return Checkpoint(
        {n: t.detach().contiguous().cpu().numpy() for n, t in model.state_dict().items()},
        {n: m.cpu().numpy() for n, m in masks.items() if not bool(m.all())},
        info,
    )
