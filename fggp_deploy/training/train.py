"""Train: from random weights, dense or under a fixed random mask, or on from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from fggp_deploy import methods, models
from fggp_deploy.allocation import ALLOCATIONS
from fggp_deploy.errors import ConfigError
from fggp_deploy.folder import DENSE, new_folder
from fggp_deploy.masks import random_masks
from fggp_deploy.pruner import Pruner, initial_masks, prunable_parameters
from fggp_deploy.schedules import Constant
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.loop import make_optimizer, pick_device
from fggp_deploy.training.observer import Observer
from fggp_deploy.training.run import Run, RunResult
from fggp_deploy.training.start import load_data, load_start, new_model, on_device


def train(config: TrainConfig, *, observer: Observer, out: Path | None = None) -> RunResult:
    """Train `config.model` from scratch, or on from `config.checkpoint` or `config.weights`.

    From scratch, `config.sparsity` of its weights are never there; zeros of a checkpoint stay zero.
    """
    device = pick_device(config.device)
    models.check(config.model, trust_code=config.trust_code)
    torch.manual_seed(config.seed)
    if config.checkpoint is None and config.weights is None:
        start = None
        data = load_data(config, progress=observer.on_data)
        model = new_model(config, data)
    else:
        if config.sparsity:
            raise ConfigError("--sparsity is for training from scratch; `prune` makes it sparse")
        start = load_start(config, config.checkpoint, progress=observer.on_data)
        data, model = start.data, start.model
    on_device(model, device)
    if start is None:
        params = prunable_parameters(
            model, prune_first=config.prune_first, keep_dense=config.keep_dense
        )
        shapes = {n: tuple(p.shape) for n, p in params.items()}
        keep = ALLOCATIONS[config.allocation](shapes, config.sparsity)
        generator = torch.Generator().manual_seed(config.seed)
        masks = random_masks(params, keep, generator=generator)
    else:
        masks = initial_masks(
            model, start.masks, prune_first=config.prune_first, keep_dense=config.keep_dense
        )
    optimizer = make_optimizer(model, config)
    pruner = Pruner(
        model,
        methods.criterion("gmp"),
        Constant(masks.sparsity if start else config.sparsity),
        optimizer=optimizer,
        masks=masks,
        prune_first=config.prune_first,
        keep_dense=config.keep_dense,
    )
    return Run(
        folder=new_folder(out, f"{models.in_a_path(config.model)}-train-{config.sparsity:g}"),
        result_name=DENSE,
        model=model,
        data=data,
        config=config,
        pruner=pruner,
        optimizer=optimizer,
        device=device,
        parent_sha256=start.sha256 if start else None,
        names=start.names if start else {},
    ).go(observer)
