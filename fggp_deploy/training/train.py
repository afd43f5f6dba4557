"""Train from random weights, dense or under a fixed random mask."""

from __future__ import annotations

from pathlib import Path

import torch

from fggp_deploy import methods
from fggp_deploy.allocation import ALLOCATIONS
from fggp_deploy.folder import DENSE
from fggp_deploy.masks import random_masks
from fggp_deploy.models import build
from fggp_deploy.pruner import Pruner, prunable_parameters
from fggp_deploy.schedules import Constant
from fggp_deploy.training.conduct import Ready, conduct
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.device import pick_device
from fggp_deploy.training.loop import make_optimizer
from fggp_deploy.training.observer import Observer
from fggp_deploy.training.result import RunResult
from fggp_deploy.training.resume import Origin, data_digest
from fggp_deploy.training.session import Session
from fggp_deploy.training.start import load_data, on_device


def train(config: TrainConfig, *, observer: Observer, out: Path | None = None) -> RunResult:
    """Train `config.model`; with `config.sparsity`, that share of weights is never there.

    See `conduct` for a folder that holds a run already.
    """
    return conduct(
        lambda folder, origin: ready_to_train(config),
        config,
        name=f"{config.model}-train-{config.sparsity:g}",
        result_name=DENSE,
        observer=observer,
        out=out,
    )


def ready_to_train(config: TrainConfig) -> Ready:
    """Everything made for the first step."""
    device = pick_device(config.device)
    data = load_data(config)
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
    session = Session(
        model=model,
        data=data,
        config=config,
        pruner=pruner,
        optimizer=optimizer,
        device=device,
    )
    return Ready(session, Origin(data_sha256=data_digest(data), start_sparsity=config.sparsity))
