"""Checkpoints made elsewhere: state dicts of torch.save and safetensors, whatever the suffix."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fggp_deploy.checkpoints.checkpoint import MASK_PREFIX, Checkpoint
from fggp_deploy.checkpoints.file_type import head_of, is_safetensors
from fggp_deploy.checkpoints.state_dict import StateDict, unwrap
from fggp_deploy.checkpoints.torch_file import read_torch
from fggp_deploy.errors import CheckpointError

# First bytes of files that users give by mistake: what they are, and what to give instead.
_OTHERS = {
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"GGUF": "a GGUF file of a language model",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"<!DOCTYPE": "a web page, perhaps of a download that failed",
    b"<html": "a web page, perhaps of a download that failed",
    b"version https://git-lfs": "a git-lfs pointer; fetch the file itself with `git lfs pull`",
}


def read_foreign(path: Path) -> StateDict:
    """Read a checkpoint without running any code that it may hold.

    Weights keep their type (half, bfloat16, …) and are finite. Raises CheckpointError, and
    MachineError for a missing permission.
    """
    head = head_of(path)
    size = path.stat().st_size
    if is_safetensors(head, path):
        try:
            content = load_file(path)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as e:
            raise CheckpointError(
                f"{path} is not a readable safetensors file ({e}); it may be cut off: copy it again"
            ) from e
        if any(n.startswith(MASK_PREFIX) for n in content):  # one of ours whose description is lost
            ours = Checkpoint.open(path)
            return StateDict(*({n: torch.from_numpy(a.copy()) for n, a in d.items()}
                               for d in (ours.tensors, ours.masks)))  # fmt: skip
        return unwrap(path, content, size)
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise CheckpointError(f"{path} is {what}; give a .safetensors or PyTorch checkpoint")
    return unwrap(path, read_torch(path, size), size)
