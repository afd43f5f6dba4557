"""Prune a trained network while fine-tuning it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fggp_deploy import methods, models
from fggp_deploy.artifacts.checkpoint import CheckpointInfo
from fggp_deploy.errors import ConfigError
from fggp_deploy.folder import INTERRUPTED, PARENT, PRUNED, new_folder
from fggp_deploy.masks import MaskSet
from fggp_deploy.pruner import Pruner, check_reachable, initial_masks
from fggp_deploy.schedules import Cubic
from fggp_deploy.training.batches import n_training_batches
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.loop import make_optimizer, pick_device
from fggp_deploy.training.observer import Observer
from fggp_deploy.training.run import Run, RunResult
from fggp_deploy.training.start import Start, count_macs, load_start, on_device, to_checkpoint


def prune(config: PruneConfig, *, observer: Observer, out: Path | None = None) -> RunResult:
    """Prune `config.checkpoint` to `config.target` and write a run's folder.

    The parent is kept beside the result, so that the folder is complete in itself. Raises
    TargetBelowStart, LayerCollapse, TrainingDiverged and the readers' errors; see Run.go for what
    is kept then.
    """
    criterion = methods.criterion(config.method, rate=config.rate)
    device = pick_device(config.device)
    models.check(config.model, trust_code=config.trust_code)
    if config.new_head:
        raise ConfigError("a fresh head knows nothing yet: `train --new-head` first, prune that")
    if config.checkpoint is None and config.weights is None and config.model != PruneConfig.model:
        raise ConfigError(
            f"--model {config.model} needs --checkpoint or --weights: only {PruneConfig.model} "
            f"comes trained"
        )
    start = load_start(config, config.checkpoint, progress=observer.on_data)
    parent = _parent(config, start)
    torch.manual_seed(config.seed)
    model = on_device(start.model, device)
    teacher = on_device(parent.model, device).eval()
    n_steps = config.epochs * n_training_batches(start.data, config.batch_size)
    masks = initial_masks(
        model, start.masks, prune_first=config.prune_first, keep_dense=config.keep_dense
    )
    check_reachable(masks, config.target)  # before Cubic, whose error does not know the checkpoint
    optimizer = make_optimizer(model, config)
    pruner = Pruner(
        model,
        criterion,
        Cubic(config.target, steps=n_steps, start=masks.sparsity, updates=config.updates),
        optimizer=optimizer,
        masks=start.masks,
        prune_first=config.prune_first,
        keep_dense=config.keep_dense,
    )
    folder = new_folder(out, f"{models.in_a_path(config.model)}-{config.method}-{config.target:g}")
    _keep_parent(parent, teacher, config.model, folder)
    return Run(
        folder=folder,
        result_name=PRUNED,
        model=model,
        data=start.data,
        config=config,
        pruner=pruner,
        optimizer=optimizer,
        device=device,
        teacher=teacher,
        parent_sha256=parent.sha256,
        names=start.names,
    ).go(observer)


def _parent(config: PruneConfig, start: Start) -> Start:
    """What the result is compared with and learns from: the checkpoint as it came.

    Of an interrupted run it is that run's parent, not the half-pruned network.
    """
    kept = start.checkpoint.with_name(PARENT)
    if start.checkpoint.name == INTERRUPTED and kept.is_file():
        return load_start(config, kept)
    return replace(start, model=deepcopy(start.model))


def _keep_parent(start: Start, model: nn.Module, name: str, folder: Path) -> None:
    data = start.data
    info = CheckpointInfo(
        model=models.canonical(name),
        data=data.name,
        classes=data.classes,
        preprocessing=data.preprocessing,
        macs=count_macs(model, data.preprocessing.input_shape),
        reference_sha256=start.sha256,
        names=start.names,
        provenance={"copy_of": start.checkpoint.name},
    )
    to_checkpoint(model, start.masks or MaskSet({}), info).save(folder / PARENT)
