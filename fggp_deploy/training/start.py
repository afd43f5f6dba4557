"""Load what a run starts from: data, network, weights and masks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fggp_deploy import data as datasets
from fggp_deploy import models
from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo, is_ours
from fggp_deploy.checkpoints.foreign import read_foreign
from fggp_deploy.checkpoints.run_folder import run_of
from fggp_deploy.common.files import check_readable, sha256_file
from fggp_deploy.common.progress import Progress
from fggp_deploy.data.preprocessing import Preprocessing
from fggp_deploy.data.reading import Reading
from fggp_deploy.data.splits import SPLIT, HeldOut
from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import CheckpointError, UserError, command, quoted
from fggp_deploy.models.checkpointing import warn_of_changed_code
from fggp_deploy.models.loading import load_into
from fggp_deploy.models.probing import check_runs
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.training.settings import InputSettings

EMBEDDED_CHECKPOINT = Path(__file__).parents[1] / "models" / "resnet10s2-fashion-mnist.safetensors"


@dataclass(frozen=True)
class Start:
    """A loaded network on the CPU with its data.

    `masks`: those of a sparse checkpoint, None if nothing was masked. `sha256`: of the file, None
    if the weights are random. `names`: the network's names of parameters → the file's, if they
    differ.
    """

    model: nn.Module
    data: Dataset
    masks: MaskSet | None
    checkpoint: Path
    sha256: str | None
    names: Mapping[str, str] = field(default_factory=dict)


def load_data(
    settings: InputSettings, like: Reading | None = None, *, progress: Progress | None = None
) -> Dataset:
    """The run's data set, prepared as the settings ask, and otherwise like `like`.

    `progress(what, done, total)` counts images that are checked or decoded.
    """
    reading = dataclasses.replace(
        like or Reading(),
        image_size=settings.image_size,
        resize=settings.resize,
        mean=settings.mean,
        std=settings.std,
        stream=settings.stream,
        workers=settings.workers,
        skip_unreadable=settings.skip_unreadable,
        trust_code=settings.trust_code,
        split_seed=settings.split_seed,
    )
    if progress is not None:
        reading = dataclasses.replace(reading, progress=progress)
    data = datasets.load(settings.data, settings.data_dir, reading)
    flip = data.flip if settings.flip is None else settings.flip
    return dataclasses.replace(data, augment=settings.augment, flip=flip)


def load_start(
    settings: InputSettings, checkpoint: Path | None, *, progress: Progress | None = None
) -> Start:
    """Load what is to be pruned or trained further: `checkpoint`, published weights, or our own.

    Published weights and our checkpoints bring their preprocessing; our checkpoints also bring
    their classes and the images that were held out. `progress`: see load_data. Raises
    CheckpointError if the file does not fit the model or the data, and the errors of
    `models.published`.
    """
    path, known = checkpoint or EMBEDDED_CHECKPOINT, None
    if checkpoint is None and settings.weights is not None:
        path, known = models.published(settings.model, settings.weights)
    check_readable(path, CheckpointError)
    like = Reading()
    ours = Checkpoint.open(path) if is_ours(path) else None
    if known is not None:
        if settings.mean is None:
            settings = dataclasses.replace(settings, mean=known.mean, std=known.std)
        if settings.data not in datasets.DATASETS:  # those have their own size
            like = Reading(
                preprocessing=Preprocessing(
                    known.crop, known.crop, known.mean, known.std, known.resize,
                    known.interpolation,
                )
            )  # fmt: skip
    elif ours is not None:
        assert ours.info is not None  # checked by is_ours
        _check_model(ours.info, settings, path)
        split = run_of(path) / SPLIT
        like = Reading(
            preprocessing=ours.info.preprocessing,
            classes=ours.info.classes,
            trained_on=ours.info.data,
            held_out=HeldOut.open(split) if split.is_file() else None,
        )
    data = load_data(settings, like, progress=progress)
    model = new_model(settings, data)
    what = f"{path} in {settings.model} for {data.name}"
    if ours is not None:
        state = {n: torch.from_numpy(a.copy()) for n, a in ours.tensors.items()}
        masks = {n: torch.from_numpy(m) for n, m in ours.masks.items()}
    else:
        foreign = read_foreign(path)
        state, masks = dict(foreign.tensors), dict(foreign.masks)
    with _naming_default_data(settings):
        if ours is not None:
            assert ours.info is not None
            _check_classes(ours.info, settings, data, path)
        names = load_into(model, state, what=what, new_head=settings.new_head)
    if ours is not None:
        assert ours.info is not None
        names = dict(ours.info.names)
    else:
        own = {theirs: n for n, theirs in names.items()}
        masks = {own.get(n, n): m for n, m in masks.items()}
    shapes = {n: p.shape for n, p in model.named_parameters()}
    masks = {
        n: m for n, m in masks.items() if shapes.get(n) == m.shape
    }  # not those of a replaced head
    return Start(model, data, MaskSet(masks) or None, path, sha256_file(path), names)


def new_model(settings: InputSettings, data: Dataset) -> nn.Module:
    """The run's network with random weights; checked to give logits for the data's classes."""
    with _naming_default_data(settings):
        model = models.build(
            settings.model,
            num_classes=len(data.classes),
            in_channels=data.preprocessing.channels,
            trust_code=settings.trust_code,
        )
        check_runs(
            model,
            settings.model,
            data.preprocessing.input_shape,
            len(data.classes),
            images=f"the images of {data.name}",
        )
    return model


@contextlib.contextmanager
def _naming_default_data(settings: InputSettings) -> Iterator[None]:
    """Add to errors that the data set is the default one, if the network is not.

    A user who forgot --data would otherwise look for the fault in the network.
    """
    try:
        yield
    except UserError as e:
        if settings.data == InputSettings.data and settings.model != InputSettings.model:
            e.args = (
                f"{e}. The data set is {settings.data}, the default; if that is not yours, give "
                f"--data",
            )
        raise


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network, in place, to a device and to the channels-last layout."""
    return model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _check_model(info: CheckpointInfo, settings: InputSettings, path: Path) -> None:
    made_with, given = (models.without_folder(n) for n in (info.model, settings.model))
    if made_with != given and not _same_code(info, settings.model):
        raise CheckpointError(f"{path} is a {made_with}, not a {given}; give --model {made_with}")
    warn_of_changed_code(info, settings.model, path)


def _same_code(info: CheckpointInfo, name: str) -> bool:
    """True if `name` is the checkpoint's factory in a file that was renamed since."""
    return (
        info.model_code_sha256 is not None
        and models.code_digest(name) == info.model_code_sha256
        and info.model.rpartition(":")[2] == name.rpartition(":")[2]
    )


def _check_classes(
    info: CheckpointInfo, settings: InputSettings, data: Dataset, path: Path
) -> None:
    if len(info.classes) != len(data.classes) and not settings.new_head:
        raise CheckpointError(
            f"{path} has {len(info.classes)} classes but {data.name} has {len(data.classes)}; "
            f"give {quoted('--data', info.data)}, or give it a new head with "
            f"{command('fggp-deploy', 'train', '--checkpoint', path, '--new-head')} and prune that"
        )
