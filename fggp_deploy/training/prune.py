"""Prune a trained network while fine-tuning it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from fggp_deploy import models
from fggp_deploy.checkpoints.run_folder import DENSE_MODEL, PRUNED, checkpoint_in, dense_model_of
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
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.device import pick_device
from fggp_deploy.training.loop import make_optimizer
from fggp_deploy.training.observer import SILENT, Observer
from fggp_deploy.training.precision import with_measured_precision
from fggp_deploy.training.prepared import Prepared
from fggp_deploy.training.result import RunResult
from fggp_deploy.training.resume import Origin
from fggp_deploy.training.run import Resumed, Run
from fggp_deploy.training.session import Session
from fggp_deploy.training.stages import pruning_schedule, stages
from fggp_deploy.training.start import Start, load_data, load_start, new_model, on_device


def prune(
    config: PruneConfig, *, observer: Observer = SILENT, out: Path | None = None
) -> RunResult:
    """Prune `config.checkpoint` to `config.target` and write a run's folder.

    The dense model is kept beside the result, so that the folder is complete in itself. If `out`
    holds an interrupted run, it resumes; see Run. On several devices each of torchrun's processes
    calls this and gets the result, and only the lead is observed. Raises TargetBelowStart,
    LayerCollapse, TrainingDiverged, Stopped and the errors of reading.
    """
    name = f"{models.in_a_path(config.model)}-{config.method}-{config.targets[-1]:g}"
    with (
        joined(pick_device(config.device)) as ranks,
        Run(out, config, name=name, result_name=PRUNED, ranks=ranks) as run,
    ):
        if run.finished is not None:
            return run.finished
        observer = observer if ranks.leads else SILENT
        prepared = prepare_pruning(run.config, run.resumed, ranks=ranks, progress=observer.on_data)
        return run.complete(prepared, observer)


def prepare_pruning(
    config: PruneConfig,
    resumed: Resumed | None = None,
    *,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Prepared:
    """Everything in memory for the first step, or for resuming an interrupted run.

    `progress`: see load_data.
    """
    device = pick_device(config.device)
    ranks.check_batch_size(config.batch_size)
    models.check(config.model, trust_code=config.trust_code)
    if resumed is None:
        start, dense = _load(config, progress)
        checkpoint_sha256 = start.sha256
    else:
        start, dense = _load_again(config, resumed.folder, progress)
        given, checkpoint_sha256 = config.checkpoint, resumed.origin.checkpoint_sha256
        if given is not None and given.is_file():
            checkpoint_sha256 = sha256_file(given)
    torch.manual_seed(config.seed)
    model = ranks.synced(on_device(start.model, device))
    masks = initial_masks(
        model, start.masks, prune_first=config.prune_first, keep_dense=config.keep_dense
    )
    config = with_measured_precision(
        config, model, start.data.preprocessing.input_shape, device=device, ranks=ranks
    )
    check_reachable(masks, config.targets[0])  # Cubic's own error does not know the checkpoint
    if resumed is None and not config.from_random:
        config.method_info.refuse_start(config.method, "sparse" if masks.n_removed else "dense")
    sparsity = min(masks.sparsity, config.targets[0])
    if resumed is not None:
        sparsity = resumed.origin.start_sparsity
    task = _task(
        config, start.data, start_sparsity=sparsity, device=device, ranks=ranks, progress=progress
    )
    optimizer = make_optimizer(model, config)
    pruner = Pruner(
        model,
        config.method_info.make(config.method_options, task),
        optimizer=optimizer,
        masks=start.masks,
        prune_first=config.prune_first,
        keep_dense=config.keep_dense,
        min_layer_density=config.min_layer_density,
        begin=resumed is None,
    )
    session = Session(
        model=model,
        data=start.data,
        config=config,
        pruner=pruner,
        optimizer=optimizer,
        device=device,
        teacher=on_device(dense.model, device).eval() if dense else None,
        distill=config.distill,
        int8_aware=config.int8_aware,
        ranks=ranks,
    )
    if config.int8_aware and resumed is None and not session.weights_to_round(session.n_steps):
        raise ConfigError(
            "--int8-aware rounds weights after the last mask update, but no training step "
            "follows it; leave it out, give more --epochs, or a smaller `until` if the method "
            "has that option"
        )
    origin = Origin.of(
        session,
        start_sparsity=sparsity,
        checkpoint_sha256=checkpoint_sha256,
        parent_sha256=dense.sha256 if dense else None,
        progress=progress,
    )
    return Prepared(session, origin, dense=dense, names=start.names)


def _task(
    config: PruneConfig,
    data: Dataset,
    *,
    start_sparsity: float,
    device: torch.device,
    ranks: Ranks,
    progress: Progress | None,
) -> Task:
    """What the run asks of its method."""
    steps_per_epoch = n_training_batches(data, config.batch_size)
    n_steps = config.epochs * steps_per_epoch
    parts = stages(config.targets, n_steps, prunes=config.prunes)
    return Task(
        target=config.targets[-1],
        schedule=pruning_schedule(parts, start=start_sparsity, updates=config.updates),
        n_steps=n_steps,
        steps_per_epoch=steps_per_epoch,
        updates=config.updates,
        rate=config.rate,
        seed=config.seed,
        input_shape=data.preprocessing.input_shape,
        densities=config.densities,
        pattern=config.pattern,
        batches=partial(
            calibration_batches,
            data,
            batch_size=config.batch_size,
            seed=config.seed,
            workers=config.workers,
            device=device,
            ranks=ranks,
        ),
        progress=progress or silent,
    )


def _load(config: PruneConfig, progress: Progress | None) -> tuple[Start, Start | None]:
    """What is to be pruned, and the dense model that it is compared with and learns from.

    The dense model is the checkpoint as it was given; of a savepoint it is the dense model of that
    run, not the partly pruned network. A run from random weights has one only if a checkpoint is
    given or comes with the package.
    """
    if config.new_head:
        raise ConfigError(
            "prune needs a trained last layer, but --new-head starts with an untrained one; run "
            "`train --new-head` first and prune its result"
        )
    ours = config.model == PruneConfig.model
    if config.checkpoint is None and config.weights is None and not ours:
        if config.from_random:
            return _random(config, load_data(config, progress=progress)), None
        raise ConfigError(
            f"--model {config.model} needs --checkpoint or --weights: only {PruneConfig.model} "
            "comes with trained weights"
        )
    path = config.checkpoint
    if path is not None and path.is_dir():
        path = checkpoint_in(path)
    start = load_start(config, path, progress=progress)
    if config.from_random and start.masks is not None:
        raise ConfigError(
            f"{path} is sparse, and --method {config.method} would start from random weights and "
            "choose new masks; give --start trained to keep its zeros, or a dense --checkpoint "
            "to learn from"
        )
    kept = dense_model_of(start.checkpoint)
    if kept.parent != start.checkpoint.parent and kept.is_file():
        dense = load_start(config, kept, progress=progress)
    else:
        dense = replace(start, model=deepcopy(start.model))
    return (_random(config, start.data, start) if config.from_random else start), dense


def _load_again(
    config: PruneConfig, folder: Path, progress: Progress | None
) -> tuple[Start, Start | None]:
    """The same for a resumed run: its folder holds the dense model, its savepoint the rest."""
    path = folder / DENSE_MODEL
    if not path.is_file() and config.from_random:
        return _random(config, load_data(config, progress=progress)), None
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, and the run cannot resume without it")
    dense = load_start(config, path, progress=progress)
    return replace(dense, model=deepcopy(dense.model)), dense


def _random(config: PruneConfig, data: Dataset, instead_of: Start | None = None) -> Start:
    """Random weights from the seed, none of them masked."""
    torch.manual_seed(config.seed)
    model = new_model(config, data)
    masks = MaskSet.ones(weight_parameters(model))
    if instead_of is not None:
        return replace(instead_of, model=model, masks=masks)
    return Start(model, data, masks, Path(), sha256=None)
