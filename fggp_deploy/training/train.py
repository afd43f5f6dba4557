"""Train a network from random weights, dense or under a fixed random mask, or a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fggp_deploy import models
from fggp_deploy.checkpoints.run_folder import DENSE
from fggp_deploy.common.progress import Progress
from fggp_deploy.distributed.ranks import ALONE, Ranks, joined
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.allocation import ALLOCATIONS
from fggp_deploy.pruning.criteria import Magnitude
from fggp_deploy.pruning.masks import MaskSet, random_masks
from fggp_deploy.pruning.pruner import Pruner, initial_masks, prunable_parameters
from fggp_deploy.pruning.schedules import Constant
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.device import pick_device
from fggp_deploy.training.loop import make_optimizer
from fggp_deploy.training.observer import SILENT, Observer
from fggp_deploy.training.precision import with_measured_precision
from fggp_deploy.training.prepared import Prepared
from fggp_deploy.training.result import RunResult
from fggp_deploy.training.resume import Origin
from fggp_deploy.training.run import Run
from fggp_deploy.training.session import Session
from fggp_deploy.training.start import load_data, load_start, new_model, on_device


def train(
    config: TrainConfig, *, observer: Observer = SILENT, out: Path | None = None
) -> RunResult:
    """Train `config.model` from random weights, `config.checkpoint` or `config.weights`.

    With random weights, a share of `config.sparsity` is masked from the start; zeros of a sparse
    checkpoint stay zero. If `out` holds an interrupted run, it resumes; see Run, and `prune` for
    several devices.
    """
    name = f"{models.in_a_path(config.model)}-train-{config.sparsity:g}"
    with (
        joined(pick_device(config.device)) as ranks,
        Run(out, config, name=name, result_name=DENSE, ranks=ranks) as run,
    ):
        if run.finished is not None:
            return run.finished
        observer = observer if ranks.leads else SILENT
        prepared = prepare_training(run.config, ranks=ranks, progress=observer.on_data)
        return run.complete(prepared, observer)


def prepare_training(
    config: TrainConfig, *, ranks: Ranks = ALONE, progress: Progress | None = None
) -> Prepared:
    """Everything in memory for the first step; `progress`: see load_data."""
    device = pick_device(config.device)
    ranks.check_batch_size(config.batch_size)
    models.check(config.model, trust_code=config.trust_code)
    torch.manual_seed(config.seed)
    if config.checkpoint is None and config.weights is None:
        start = None
        data = load_data(config, progress=progress)
        model = ranks.synced(on_device(new_model(config, data), device))
        masks = _new_masks(model, config)
    else:
        if config.sparsity:
            raise ConfigError(
                "--sparsity is for training from random weights; to make a checkpoint sparse, "
                "use `fggp-deploy prune`"
            )
        start = load_start(config, config.checkpoint, progress=progress)
        data, model = start.data, ranks.synced(on_device(start.model, device))
        masks = initial_masks(
            model, start.masks, prune_first=config.prune_first, keep_dense=config.keep_dense
        )
    config = with_measured_precision(
        config, model, data.preprocessing.input_shape, device=device, ranks=ranks
    )
    sparsity = masks.sparsity if start else config.sparsity
    optimizer = make_optimizer(model, config)
    pruner = Pruner(
        model,
        Magnitude(),
        Constant(sparsity),
        optimizer=optimizer,
        masks=masks,
        prune_first=config.prune_first,
        keep_dense=config.keep_dense,
        min_layer_density=0,  # the masks stay as they are
    )
    session = Session(
        model=model,
        data=data,
        config=config,
        pruner=pruner,
        optimizer=optimizer,
        device=device,
        ranks=ranks,
    )
    sha256 = start.sha256 if start else None
    origin = Origin.of(
        session, start_sparsity=sparsity, checkpoint_sha256=sha256, progress=progress
    )
    return Prepared(session, origin, start_sha256=sha256, names=start.names if start else {})


def _new_masks(model: nn.Module, config: TrainConfig) -> MaskSet:
    """Random masks of sparsity `config.sparsity`, drawn from the seed."""
    params = prunable_parameters(
        model, prune_first=config.prune_first, keep_dense=config.keep_dense
    )
    shapes = {n: tuple(p.shape) for n, p in params.items()}
    keep = ALLOCATIONS[config.allocation](shapes, config.sparsity)
    return random_masks(params, keep, generator=torch.Generator().manual_seed(config.seed))
