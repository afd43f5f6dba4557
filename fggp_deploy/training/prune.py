"""Prune a trained network while fine-tuning it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch

from fggp_deploy import models
from fggp_deploy.checkpoints.run_folder import PARENT, PRUNED, checkpoint_in, parent_of
from fggp_deploy.common.files import sha256_file
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.data.types import Dataset
from fggp_deploy.distributed.ranks import ALONE, Ranks, joined
from fggp_deploy.errors import CheckpointError, ConfigError
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.methods import Task
from fggp_deploy.pruning.pruner import Pruner, check_reachable, initial_masks, weight_parameters
from fggp_deploy.training.batches import n_training_batches
from fggp_deploy.training.calibration import calibration_batches
from fggp_deploy.training.conduct import Origin, Ready, conduct
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.device import pick_device
from fggp_deploy.training.loop import make_optimizer
from fggp_deploy.training.observer import SILENT, Observer
from fggp_deploy.training.result import RunResult
from fggp_deploy.training.session import Session
from fggp_deploy.training.stages import pruning_schedule, stages
from fggp_deploy.training.start import Start, load_data, load_start, new_model, on_device


def prune(
    config: PruneConfig, *, observer: Observer = SILENT, out: Path | None = None
) -> RunResult:
    """Prune `config.checkpoint` to `config.target` and write a run's folder.

    The parent is kept beside the result, so that the folder is complete in itself. See `conduct`
    for a folder that holds a run already, and `distributed.joined` for several devices: each of
    torchrun's processes calls this and gets the result, one of them is observed. Raises
    TargetBelowStart, LayerCollapse, TrainingDiverged, Stopped and the readers' errors.
    """
    with joined(pick_device(config.device)) as ranks:
        observer = observer if ranks.leads else SILENT
        return conduct(
            lambda folder, origin: ready_to_prune(
                config, folder, origin, ranks=ranks, progress=observer.on_data
            ),
            config,
            name=f"{models.in_a_path(config.model)}-{config.method}-{config.targets[-1]:g}",
            result_name=PRUNED,
            observer=observer,
            out=out,
            ranks=ranks,
        )


def ready_to_prune(
    config: PruneConfig,
    folder: Path | None = None,
    origin: Origin | None = None,
    *,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Ready:
    """Everything loaded for the first step, or, given a run's folder and origin, for going on.

    `progress`: see load_start.
    """
    device = pick_device(config.device)
    ranks.check_batch_size(config.batch_size)
    models.check(config.model, trust_code=config.trust_code)
    going_on = folder is not None and origin is not None
    if folder is None or origin is None:
        start, parent = _load(config, progress)
        checkpoint_sha256 = start.sha256
    else:
        start, parent = _load_again(config, folder, progress)
        given, checkpoint_sha256 = config.checkpoint, origin.checkpoint_sha256
        if given is not None and given.is_file():
            checkpoint_sha256 = sha256_file(given)
    torch.manual_seed(config.seed)
    model = ranks.synced(on_device(start.model, device))
    masks = initial_masks(
        model, start.masks, prune_first=config.prune_first, keep_dense=config.keep_dense
    )
    check_reachable(masks, config.targets[0])  # Cubic's own error does not know the checkpoint
    if not (going_on or config.from_random):
        config.method_info.refuse_start(config.method, "sparse" if masks.n_removed else "dense")
    begin = min(masks.sparsity, config.targets[0]) if origin is None else origin.start_sparsity
    steps_per_epoch = n_training_batches(start.data, config.batch_size)
    n_steps = config.epochs * steps_per_epoch
    optimizer = make_optimizer(model, config)
    task = Task(
        target=config.targets[-1],
        schedule=pruning_schedule(stages(config, n_steps), start=begin, updates=config.updates),
        n_steps=n_steps,
        steps_per_epoch=steps_per_epoch,
        updates=config.updates,
        rate=config.rate,
        seed=config.seed,
        input_shape=start.data.preprocessing.input_shape,
        densities=config.densities,
        pattern=config.pattern,
        batches=lambda n: calibration_batches(start.data, config, n, device=device, ranks=ranks),
        progress=progress or silent,
    )
    pruner = Pruner(
        model,
        config.method_info.make(config.method_options, task),
        optimizer=optimizer,
        masks=start.masks,
        prune_first=config.prune_first,
        keep_dense=config.keep_dense,
        min_layer_density=config.min_layer_density,
        begin=not going_on,
    )
    session = Session(
        model=model,
        data=start.data,
        config=config,
        pruner=pruner,
        optimizer=optimizer,
        device=device,
        teacher=on_device(parent.model, device).eval() if parent else None,
        ranks=ranks,
    )
    if config.int8_aware and not (going_on or session.weights_to_round(n_steps)):
        raise ConfigError(
            "--int8-aware rounds weights after the last mask update, and no step comes after it; "
            "leave it out, give more --epochs, or where the method has `until` a smaller one"
        )
    return Ready(
        session,
        Origin.of(
            session,
            start_sparsity=begin,
            checkpoint_sha256=checkpoint_sha256,
            parent_sha256=parent.sha256 if parent else None,
            progress=progress,
        ),
        parent=parent,
        names=start.names,
    )


def _load(config: PruneConfig, progress: Progress | None) -> tuple[Start, Start | None]:
    """What is to be pruned, and what the result is compared with and learns from.

    The parent is the checkpoint as it came; of a savepoint it is that run's parent, not the
    half-pruned network. A run from random weights has one only where a checkpoint is given or
    comes with the package.
    """
    if config.new_head:
        raise ConfigError("a fresh head knows nothing yet: `train --new-head` first, prune that")
    own = config.model == PruneConfig.model
    if config.checkpoint is None and config.weights is None and not own:
        if config.from_random:
            return _random(config, load_data(config, progress=progress)), None
        raise ConfigError(
            f"--model {config.model} needs --checkpoint or --weights: only {PruneConfig.model} "
            f"comes trained"
        )
    path = config.checkpoint
    if path is not None and path.is_dir():
        path = checkpoint_in(path)
    start = load_start(config, path, progress=progress)
    if config.from_random and start.masks is not None:
        raise ConfigError(
            f"{path} is sparse, and --method {config.method} would begin with random weights and "
            f"masks of its own; give --start trained to keep its zeros, or a dense --checkpoint "
            f"to learn from"
        )
    kept = parent_of(start.checkpoint)
    if kept.parent != start.checkpoint.parent and kept.is_file():
        parent = load_start(config, kept, progress=progress)
    else:
        parent = replace(start, model=deepcopy(start.model))
    return (_random(config, start.data, start) if config.from_random else start), parent


def _load_again(
    config: PruneConfig, folder: Path, progress: Progress | None
) -> tuple[Start, Start | None]:
    """The same for a run that goes on: its folder holds the parent, and a savepoint the rest."""
    if not (folder / PARENT).is_file() and config.from_random:
        return _random(config, load_data(config, progress=progress)), None
    parent = load_start(config, _present(folder / PARENT), progress=progress)
    return replace(parent, model=deepcopy(parent.model)), parent


def _random(config: PruneConfig, data: Dataset, instead_of: Start | None = None) -> Start:
    """Random weights from the seed, none of them masked."""
    torch.manual_seed(config.seed)
    model = new_model(config, data)
    masks = MaskSet.ones(weight_parameters(model))
    if instead_of is not None:
        return replace(instead_of, model=model, masks=masks)
    return Start(model, data, masks, Path(), sha256=None)


def _present(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, and the run cannot go on without it")
    return path
