"""Recognizes the kind of a checkpoint file by its first bytes; needs no torch."""

from __future__ import annotations

from pathlib import Path

from fggp_deploy.common.files import check_readable
from fggp_deploy.errors import CheckpointError

ZIP = b"PK"  # torch.save, since 1.6
PICKLE = b"\x80"  # torch.save, before
_N_HEAD = 64
SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin")  # the usual suffixes


def head_of(path: Path) -> bytes:
    """The first bytes of a file; raises CheckpointError or MachineError if it cannot be read."""
    check_readable(path, CheckpointError)
    with path.open("rb") as f:
        return f.read(_N_HEAD)


def is_safetensors(head: bytes, path: Path) -> bool:
    """True for a safetensors file; if the bytes are ambiguous, the suffix decides."""
    if head[8:9] == b"{":
        return True
    return path.suffix == ".safetensors" and not head.startswith((ZIP, PICKLE))


def is_checkpoint(path: Path) -> bool:
    """True for a file of safetensors or torch.save, whatever its name."""
    head = head_of(path)
    return is_safetensors(head, path) or head.startswith((ZIP, PICKLE))
