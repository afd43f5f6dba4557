"""What a run starts from: data, network, weights, and the masks that came with them."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fggp_deploy import data as datasets
from fggp_deploy import models
from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo, is_ours
from fggp_deploy.checkpoints.foreign import read_foreign
from fggp_deploy.checkpoints.run_folder import run_of
from fggp_deploy.common.files import check_readable, sha256_file
from fggp_deploy.common.progress import Progress
from fggp_deploy.common.user_code import raised
from fggp_deploy.data.preprocessing import Preprocessing
from fggp_deploy.data.reading import Reading
from fggp_deploy.data.splits import SPLIT, HeldOut
from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import (
    CheckpointError,
    ConfigError,
    FggpWarning,
    UserError,
    command,
    quoted,
)
from fggp_deploy.models import factory_file
from fggp_deploy.models.loading import load_into
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.pruner import weight_parameters
from fggp_deploy.training.config import TrainConfig

EMBEDDED_CHECKPOINT = Path(__file__).parents[1] / "models" / "resnet10s2-fashion-mnist.safetensors"


@dataclass(frozen=True)
class Start:
    """A loaded network on the CPU with its data.

    `masks`: what a sparse checkpoint keeps; None when nothing was masked. `sha256`: of the file,
    None where the weights are random.
    `names`: the network's names of parameters → the file's, where they differ.
    """

    model: nn.Module
    data: Dataset
    masks: MaskSet | None
    checkpoint: Path
    sha256: str | None
    names: Mapping[str, str] = field(default_factory=dict)


def load_data(
    config: TrainConfig, like: Reading | None = None, *, progress: Progress | None = None
) -> Dataset:
    """The run's data set, prepared as the options ask, and else as `like` says.

    `progress(what, done, total)` counts images that are checked or decoded.
    """
    reading = dataclasses.replace(
        like or Reading(),
        image_size=config.image_size,
        resize=config.resize,
        mean=config.mean,
        std=config.std,
        stream=config.stream,
        workers=config.workers,
        skip_unreadable=config.skip_unreadable,
        trust_code=config.trust_code,
        split_seed=config.split_seed,
    )
    if progress is not None:
        reading = dataclasses.replace(reading, progress=progress)
    data = datasets.load(config.data, config.data_dir, reading)
    flip = data.flip if config.flip is None else config.flip
    return dataclasses.replace(data, augment=config.augment, flip=flip)


def load_start(
    config: TrainConfig, checkpoint: Path | None, *, progress: Progress | None = None
) -> Start:
    """Load what is to be pruned or trained further: `checkpoint`, `config.weights`, or our own.

    Weights that are published, or ours, bring their preprocessing; ours also their classes and
    what they have not seen of their data. `progress`: see load_data. Raises CheckpointError when
    the file does not fit model or data, and the errors of `models.published`.
    """
    path, known = checkpoint or EMBEDDED_CHECKPOINT, None
    if checkpoint is None and config.weights is not None:
        path, known = models.published(config.model, config.weights)
    check_readable(path, CheckpointError)
    like = Reading()
    ours = Checkpoint.open(path) if is_ours(path) else None
    if known is not None:
        if config.mean is None:
            config = dataclasses.replace(config, mean=known.mean, std=known.std)
        if config.data not in datasets.DATASETS:  # those have a size of their own
            like = Reading(
                preprocessing=Preprocessing(
                    known.crop, known.crop, known.mean, known.std, known.resize,
                    known.interpolation,
                )
            )  # fmt: skip
    elif ours is not None:
        assert ours.info is not None  # is_ours has seen it
        _check_model(ours.info, config, path)
        split = run_of(path) / SPLIT
        like = Reading(
            preprocessing=ours.info.preprocessing,
            classes=ours.info.classes,
            trained_on=ours.info.data,
            held_out=HeldOut.open(split) if split.is_file() else None,
        )
    data = load_data(config, like, progress=progress)
    model = new_model(config, data)
    what = f"{path} in {config.model} for {data.name}"
    if ours is not None:
        state = {n: torch.from_numpy(a.copy()) for n, a in ours.tensors.items()}
        masks = {n: torch.from_numpy(m) for n, m in ours.masks.items()}
    else:
        foreign = read_foreign(path)
        state, masks = dict(foreign.tensors), dict(foreign.masks)
    with _naming_default_data(config):
        if ours is not None:
            assert ours.info is not None
            _check_classes(ours.info, config, data, path)
        names = load_into(model, state, what=what, new_head=config.new_head)
    if ours is not None:
        assert ours.info is not None
        names = dict(ours.info.names)
    else:
        own = {theirs: n for n, theirs in names.items()}
        masks = {own.get(n, n): m for n, m in masks.items()}
    shapes = {n: p.shape for n, p in model.named_parameters()}
    masks = {n: m for n, m in masks.items() if shapes.get(n) == m.shape}  # not a head's that left
    return Start(model, data, MaskSet(masks) or None, path, sha256_file(path), names)


def new_model(config: TrainConfig, data: Dataset) -> nn.Module:
    """The run's network with random weights, seen to turn the data's images into class logits."""
    with _naming_default_data(config):
        model = models.build(
            config.model,
            num_classes=len(data.classes),
            in_channels=data.preprocessing.channels,
            trust_code=config.trust_code,
        )
        check_runs(
            model,
            config.model,
            data.preprocessing.input_shape,
            len(data.classes),
            images=f"the images of {data.name}",
        )
    return model


@contextlib.contextmanager
def _naming_default_data(config: TrainConfig) -> Iterator[None]:
    """Have errors say that the data are the default ones, for a network that is not.

    Whoever forgets --data would look for the fault in the network.
    """
    try:
        yield
    except UserError as e:
        if config.data == TrainConfig.data and config.model != TrainConfig.model:
            e.args = (
                f"{e}. The data set is {config.data}, the default; if that is not yours, give "
                f"--data",
            )
        raise


def restore(
    checkpoint: Checkpoint, path: Path, *, network: str | None = None, trust_code: bool = False
) -> nn.Module:
    """The network of one of our checkpoints, on the CPU, in eval mode.

    A network from the user's own file needs `trust_code`, as when it was pruned. `network`: see
    network_of.
    """
    info = checkpoint.info
    if info is None:
        raise CheckpointError(f"{path} does not say which network it is; prune it first")
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
    """The name to build the network of the checkpoint at `path`: `given`, or found again.

    Raises CheckpointError if it came from a file of the user's own that is not there any more.
    Warns if that file has changed.
    """
    name = given or models.found_again(info.model, run_of(path), info.model_code_sha256)
    if name is None:
        raise CheckpointError(
            f"{path} was made with {models.without_folder(info.model)}, and that file is not at "
            f"{factory_file.recorded_place(info.model, run_of(path))}; name the file where it is "
            f"now: --model PATH/{models.without_folder(info.model)} --trust-code"
        )
    _warn_of_changed_code(info, name, path)
    return name


def _warn_of_changed_code(info: CheckpointInfo, name: str, path: Path) -> None:
    now = models.code_digest(name)
    if info.model_code_sha256 is not None and now is not None and now != info.model_code_sha256:
        warnings.warn(
            f"{factory_file.path_of(name)} is not the file that {path} was made with (its SHA-256 "
            f"differs); if it computes something else now, the results are wrong",
            FggpWarning,
            stacklevel=3,
        )


def to_checkpoint(model: nn.Module, masks: MaskSet, info: CheckpointInfo) -> Checkpoint:
    """A checkpoint of the model as it is now; `masks` are stored where they remove anything."""
    return Checkpoint(
        {n: t.detach().contiguous().cpu().numpy() for n, t in model.state_dict().items()},
        {n: m.cpu().numpy() for n, m in masks.items() if not bool(m.all())},
        info,
    )


@torch.no_grad()
def count_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """Dense multiply-accumulates of every prunable kind of weight for one image, by a forward pass.

    Of attention only its projections: the products of activations hold no weights.
    """
    names = {id(p): n for n, p in weight_parameters(model).items()}
    macs: dict[str, int] = {}

    def add(weight: Tensor, positions: int) -> None:
        name = names[id(weight)]
        macs[name] = macs.get(name, 0) + weight.numel() * positions

    def layer(module: nn.Module, _: object, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)  # only Conv and Linear carry this hook
        add(weight, output[0].numel() // weight.shape[0])

    def attention(
        module: nn.MultiheadAttention, args: tuple[Tensor, ...], given: Mapping[str, Any], _: object
    ) -> None:
        inputs = [*args, *(given[k] for k in ("query", "key", "value")[len(args) :])][:3]
        tokens = [x.numel() // x.shape[-1] for x in inputs]
        if module.in_proj_weight is None:
            apart = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
            for weight, n in zip(apart, tokens, strict=True):
                add(weight, n)
        else:
            add(module.in_proj_weight, sum(tokens) // 3)  # a third of it reads each input
        add(module.out_proj.weight, tokens[0])  # which is not called as a module

    hooks = [
        m.register_forward_hook(layer)
        for m in model.modules()
        if id(getattr(m, "weight", None)) in names
    ]
    hooks += [
        m.register_forward_hook(attention, with_kwargs=True)
        for m in model.modules()
        if isinstance(m, nn.MultiheadAttention)
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


@torch.no_grad()
def check_runs(
    model: nn.Module,
    name: str,
    input_shape: tuple[int, int, int],
    n_classes: int,
    *,
    images: str = "images",
) -> None:
    """Raise ConfigError unless the network turns images [C, H, W] into one tensor of logits."""
    device = next(model.parameters()).device
    training = model.training
    try:
        logits = model.eval()(torch.zeros(2, *input_shape, device=device))
    except Exception as e:  # whatever the network's own code raises
        raise ConfigError(
            f"{name} does not run on {images}, {'×'.join(map(str, input_shape))} ({raised(e)}); "
            f"give data of a size that it takes"
        ) from e
    finally:
        model.train(training)
    want = (2, n_classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != want:
        raise ConfigError(
            f"{name} turns 2 images into {_described(logits)}; a classifier of {n_classes} classes "
            f"must give one tensor of logits {want}: wrap it in an nn.Module whose forward() "
            f"returns that"
        )


def _described(outputs: Any) -> str:
    """The type and the sizes of what a network gives."""
    if isinstance(outputs, Tensor):
        return str(tuple(outputs.shape))
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} of {', '.join(map(str, outputs))}"
    if isinstance(outputs, (tuple, list)):
        return f"{len(outputs)} outputs"
    return f"a {type(outputs).__name__}"


def _check_model(info: CheckpointInfo, config: TrainConfig, path: Path) -> None:
    made_with, given = (models.without_folder(n) for n in (info.model, config.model))
    if made_with != given and not _same_code(info, config.model):
        raise CheckpointError(f"{path} is a {made_with}, not a {given}; give --model {made_with}")
    _warn_of_changed_code(info, config.model, path)


def _same_code(info: CheckpointInfo, name: str) -> bool:
    """Whether `name` is the factory that the checkpoint was made with, in a file renamed since."""
    return (
        info.model_code_sha256 is not None
        and models.code_digest(name) == info.model_code_sha256
        and info.model.rpartition(":")[2] == name.rpartition(":")[2]
    )


def _check_classes(info: CheckpointInfo, config: TrainConfig, data: Dataset, path: Path) -> None:
    if len(info.classes) != len(data.classes) and not config.new_head:
        raise CheckpointError(
            f"{path} knows {len(info.classes)} classes but {data.name} has {len(data.classes)}; "
            f"give {quoted('--data', info.data)}, or put a fresh head on it with "
            f"{command('fggp-deploy', 'train', '--checkpoint', path, '--new-head')} and prune that"
        )
