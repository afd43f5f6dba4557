"""A plain state dict for the user's own torch code: dense, with zeros, under the user's names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.common.files import write_atomic

DEFAULT_NAME = "weights.pt"
SUFFIXES = (".pt", ".pth", ".safetensors")


def write(checkpoint: Checkpoint, path: Path) -> Path:
    """Write what `model.load_state_dict(..., strict=True)` takes in the code it came from.

    By the suffix: safetensors, or torch.save for torch.load with weights_only. Where the parent
    had other names than our network (`linear.weight` for `fc.weight`), those. Raises MachineError
    when the path cannot be written.
    """
    names = checkpoint.info.names if checkpoint.info else {}
    arrays = {names.get(n, n): np.asarray(a, order="C") for n, a in checkpoint.tensors.items()}
    if path.suffix == ".safetensors":
        content = safetensors.numpy.save(arrays)
    else:
        saved = io.BytesIO()  # torch's own writer reports a full disk as a RuntimeError
        torch.save({n: torch.from_numpy(a.copy()) for n, a in arrays.items()}, saved)
        content = saved.getvalue()
    write_atomic(path, content)
    return path
