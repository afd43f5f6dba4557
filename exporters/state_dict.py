"""A plain state dict for the user's own torch code: dense, with zeros, under the user's names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.checkpoints.foreign import read_foreign
from fggp_deploy.common.files import sha256_file, write_atomic
from fggp_deploy.errors import ConfigError
from fggp_deploy.graph.comparison import largest_difference

from . import STATE_DICT
from .exported import Exported
from .file_metadata import record, sparsity_of
from .options import ExportOptions
from .source import read_source

DEFAULT_NAME = "weights.pt"
SUFFIXES = (".pt", ".pth", ".safetensors")


def export(checkpoint: Path, options: ExportOptions) -> Exported:
    """Write a checkpoint's weights, read them back, and compare the network's logits.

    Raises ConfigError for an --out with another suffix, and as `read_source` and `write`.
    """
    if options.out is not None and options.out.suffix not in SUFFIXES:
        raise ConfigError(
            f"--out {options.out} must end in {', '.join(SUFFIXES)} for --format {STATE_DICT}"
        )
    source = read_source(checkpoint, options)
    path = write(source.content, options.out or checkpoint.with_name(DEFAULT_NAME))
    model, info = source.model, source.info
    test = record(model, info.preprocessing)
    ours = {theirs: n for n, theirs in info.names.items()}
    written = {ours.get(n, n): t for n, t in read_foreign(path).tensors.items()}
    model.load_state_dict(written, strict=True)
    again = record(model, info.preprocessing)
    sparsity = sparsity_of(info, source.content)
    return Exported(
        path=path,
        format=STATE_DICT,
        values="fp32",
        file_bytes=path.stat().st_size,
        sha256=sha256_file(path),
        reference=None,
        reference_bytes=None,
        sparsity=sparsity["n_removed"] / max(1, sparsity["n_prunable"]),
        self_test_error=largest_difference(again.logits, test.logits),
        rounding_error=None,
        largest_logit=float(abs(test.logits).max()),
        notes=(),
    )


def write(checkpoint: Checkpoint, path: Path) -> Path:
    """Write what `model.load_state_dict(…, strict=True)` takes in the code that it came from.

    The suffix decides: safetensors, or torch.save for torch.load with weights_only. If the dense
    model had other names than our network (`linear.weight` for `fc.weight`), the file has those.
    Raises MachineError if the path cannot be written.
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
