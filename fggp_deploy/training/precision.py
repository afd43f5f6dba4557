"""The number format of forward and backward passes, measured if the options leave it open."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from fggp_deploy.distributed.ranks import Ranks
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.settings import AUTO

C = TypeVar("C", bound=TrainConfig)

WORTH = 1.1  # bf16 must be this many times as fast as fp32, since it rounds
_ROUNDS = 3
_MAX_IMAGES, _MAX_PIXELS = 32, 1 << 17  # of the measured batch


def with_measured_precision(
    config: C,
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    device: torch.device,
    ranks: Ranks,
) -> C:
    """`config` with fp32 or bf16 in place of the precision `auto`; all ranks call.

    bf16 is chosen if the network trains clearly faster with it on this device. `input_shape`:
    (channels, height, width). The model and the random state stay as they are.
    """
    if config.precision != AUTO:
        return config

    def chosen() -> str:
        fp32, bf16 = step_seconds(model, input_shape, batch=config.batch_size, device=device)
        return "bf16" if bf16 * WORTH <= fp32 else "fp32"

    return replace(config, precision=ranks.from_lead(chosen))


def step_seconds(
    model: nn.Module, input_shape: tuple[int, int, int], *, batch: int, device: torch.device
) -> tuple[float, float]:
    """Seconds of a forward and backward pass in fp32 and in bf16 (autocast): the best of three.

    The two alternate. They run on a copy of the model, with at most `batch` random images.
    """
    _, height, width = input_shape
    n = max(2, min(batch, _MAX_IMAGES, _MAX_PIXELS // (height * width)))  # batch norm needs two
    best = {"fp32": float("inf"), "bf16": float("inf")}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        copy, x = deepcopy(model).train(), torch.randn(n, *input_shape, device=device)
        for round in range(1 + _ROUNDS):  # the first one warms up
            for precision in best:
                seconds = _seconds(copy, x, bf16=precision == "bf16")
                if round:
                    best[precision] = min(best[precision], seconds)
    return best["fp32"], best["bf16"]


def _seconds(model: nn.Module, x: torch.Tensor, *, bf16: bool) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    start = time.perf_counter()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        y = model(x)
    y.float().square().mean().backward()
    model.zero_grad(set_to_none=True)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start
