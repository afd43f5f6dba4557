"""Train from random weights, dense or under a fixed random mask."""

from __future__ import annotations

from pathlib import Path

import torch

from fggp_deploy import methods
from fggp_deploy.allocation import ALLOCATIONS
from fggp_deploy.folder import DENSE, new_folder
from fggp_deploy.masks import random_masks
from fggp_deploy.models import build
from fggp_deploy.pruner import Pruner, prunable_parameters
from fggp_deploy.schedules import Constant
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.loop import make_optimizer, pick_device
from fggp_deploy.training.observer import Observer
from fggp_deploy.training.run import Run, RunResult
from fggp_deploy.training.start import load_data, on_device


def train(config: TrainConfig, *, observer: Observer, out: Path | None = None) -> RunResult:
    """Train `config.model`; with `config.sparsity`, that share of weights is never there."""
    device = pick_device(config.device)
    data = load_data(config, progress=observer.on_data)
    torch.manual_seed(config.seed)
    channels = data.preprocessing.channels
    model = build(config.model, num_classes=len(data.classes), in_channels=channels)
    on_device(model, device)
    params = prunable_parameters(
        model, prune_first=config.prune_first, keep_dense=config.keep_dense
    )
    shapes = {n: tuple(p.shape) for n, p in params.items()}
    keep = ALLOCATIONS[config.allocation](shapes, config.sparsity)
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = make_optimizer(model, config)
    pruner = Pruner(
        model,
        methods.criterion("gmp"),
        Constant(config.sparsity),
        optimizer=optimizer,
        masks=random_masks(params, keep, generator=generator),
        prune_first=config.prune_first,
        keep_dense=config.keep_dense,
    )
    return Run(
        folder=new_folder(out, f"{config.model}-train-{config.sparsity:g}"),
        result_name=DENSE,
        model=model,
        data=data,
        config=config,
        pruner=pruner,
        optimizer=optimizer,
        device=device,
    ).go(observer)
