"""What a run starts from: data, network, weights, and the masks that came with them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fggp_deploy import data as datasets
from fggp_deploy.artifacts.checkpoint import Checkpoint, CheckpointInfo
from fggp_deploy.artifacts.foreign import load_into, read_state_dict
from fggp_deploy.data.reading import Reading
from fggp_deploy.data.splits import SPLIT, HeldOut
from fggp_deploy.data.types import Dataset, Progress
from fggp_deploy.errors import CheckpointError
from fggp_deploy.files import sha256_file
from fggp_deploy.masks import MaskSet
from fggp_deploy.models import build
from fggp_deploy.pruner import weight_parameters
from fggp_deploy.training.config import TrainConfig

EMBEDDED_CHECKPOINT = Path(__file__).parents[1] / "models" / "resnet10s2-fashion-mnist.safetensors"


@dataclass(frozen=True)
class Start:
    """A loaded network on the CPU with its data.

    `masks`: what a sparse checkpoint keeps; None when nothing was masked. `sha256`: of the file.
    """

    model: nn.Module
    data: Dataset
    masks: MaskSet | None
    checkpoint: Path
    sha256: str


def load_data(
    config: TrainConfig,
    *,
    like: CheckpointInfo | None = None,
    held_out: HeldOut | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The run's data set, prepared as the options ask, and else as `like` was trained on.

    `held_out`: what `like` did not see of its data. `progress(what, done, total)` counts images.
    """
    reading = Reading(
        preprocessing=like.preprocessing if like else None,
        classes=like.classes if like else None,
        trained_on=like.data if like else None,
        image_size=config.image_size,
        resize=config.resize,
        mean=config.mean,
        std=config.std,
        stream=config.stream,
        workers=config.workers,
        skip_unreadable=config.skip_unreadable,
        trust_code=config.trust_code,
        split_seed=config.split_seed,
        held_out=held_out,
    )
    if progress is not None:
        reading = dataclasses.replace(reading, progress=progress)
    data = datasets.load(config.data, config.data_dir, reading)
    flip = data.flip if config.flip is None else config.flip
    return dataclasses.replace(data, augment=config.augment, flip=flip)


def load_start(
    config: TrainConfig, checkpoint: Path | None, *, progress: Progress | None = None
) -> Start:
    """Load what is to be pruned; raises CheckpointError when it does not fit model or data."""
    path = checkpoint or EMBEDDED_CHECKPOINT
    ours = Checkpoint.open(path) if path.suffix == ".safetensors" else None
    info = ours.info if ours is not None else None
    if info is not None:
        _check_model(info, config, path)
    split = path.with_name(SPLIT)
    held_out = HeldOut.open(split) if info is not None and split.is_file() else None
    data = load_data(config, like=info, held_out=held_out, progress=progress)
    model = _new(config.model, data)
    if ours is not None and info is not None:
        _check_classes(info, data, path)
        state = {n: torch.from_numpy(a.copy()) for n, a in ours.tensors.items()}
        masks = MaskSet({n: torch.from_numpy(m) for n, m in ours.masks.items()})
    else:
        state, masks = read_state_dict(path), MaskSet({})
    load_into(model, state, what=f"{path} in {config.model} for {data.name}")
    return Start(model, data, masks or None, path, sha256_file(path))


def restore(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The network of one of our checkpoints, on the CPU, in eval mode."""
    info = checkpoint.info
    if info is None:
        raise CheckpointError(f"{path} does not say which network it is; prune it first")
    channels = info.preprocessing.channels
    model = build(info.model, num_classes=len(info.classes), in_channels=channels)
    state = {n: torch.from_numpy(a.copy()) for n, a in checkpoint.tensors.items()}
    load_into(model, state, what=f"{path} in {info.model}")
    return model.eval()


def to_checkpoint(model: nn.Module, masks: MaskSet, info: CheckpointInfo) -> Checkpoint:
    """A checkpoint of the model as it is now; `masks` are stored where they remove anything."""
    return Checkpoint(
        {n: t.detach().contiguous().cpu().numpy() for n, t in model.state_dict().items()},
        {n: m.cpu().numpy() for n, m in masks.items() if not bool(m.all())},
        info,
    )


@torch.no_grad()
def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """Dense multiply-accumulates of every Conv/Linear weight for one image, by one forward pass."""
    names = {id(p): n for n, p in weight_parameters(model).items()}
    macs: dict[str, int] = {}

    def hook(module: nn.Module, _: object, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)  # only Conv and Linear carry this hook
        positions = output[0].numel() // weight.shape[0]
        macs[names[id(weight)]] = macs.get(names[id(weight)], 0) + weight.numel() * positions

    hooks = [
        m.register_forward_hook(hook)
        for m in model.modules()
        if id(getattr(m, "weight", None)) in names
    ]
    training = model.training
    device = next(model.parameters()).device
    model.eval()(torch.zeros(1, *input_shape, device=device))
    model.train(training)
    for h in hooks:
        h.remove()
    return macs


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network, in place, to a device and to the channels-last layout."""
    return model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _new(name: str, data: Dataset) -> nn.Module:
    return build(name, num_classes=len(data.classes), in_channels=data.preprocessing.channels)


def _check_model(info: CheckpointInfo, config: TrainConfig, path: Path) -> None:
    if info.model != config.model:
        raise CheckpointError(
            f"{path} is a {info.model}, not a {config.model}; give --model {info.model}"
        )


def _check_classes(info: CheckpointInfo, data: Dataset, path: Path) -> None:
    if len(info.classes) != len(data.classes):
        raise CheckpointError(
            f"{path} knows {len(info.classes)} classes but {data.name} has {len(data.classes)}; "
            f"give --data {info.data}"
        )
