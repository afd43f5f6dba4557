"""The device on which a run computes."""

from __future__ import annotations

import torch

from fggp_deploy.distributed import environment
from fggp_deploy.errors import ConfigError, MachineError


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA if available, else the CPU.

    Each of several processes on a machine gets its own GPU. Raises ConfigError for an unknown name,
    MachineError for a missing device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}") from e
    if device.type == "cuda" and environment.local_world() > 1:
        if device.index is not None:
            raise ConfigError(f"--device {name}: each process uses its own GPU; give cuda")
        n, gpus = environment.local_world(), torch.cuda.device_count()
        if n > gpus:
            raise MachineError(
                f"{n} processes on this machine, but {gpus} GPUs; give torchrun --nproc-per-node "
                f"{gpus}, or --device cpu"
            )
        return torch.device("cuda", environment.local_rank())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; "
            f"use --device cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    return device
