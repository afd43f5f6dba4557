"""The dense model beside an exported file: `reference.onnx`, the baseline of `verify`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.checkpoints.run_folder import REFERENCE
from fggp_deploy.common.files import sha256_file
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.format.model import SparseModel
from fggp_deploy.models.checkpointing import restore

from . import onnx_dense
from .file_metadata import metadata_of
from .torch_onnx import to_onnx


def refuse_to_replace(folder: Path, checkpoint: Path) -> None:
    """Raise ConfigError if the `reference.onnx` in `folder` was not made from `checkpoint`."""
    path = folder / REFERENCE
    if path.is_file() and checkpoint.is_file() and not _is_of(path, sha256_file(checkpoint)):
        raise ConfigError(
            f"{path} is not the dense model of this network and would be replaced; "
            "name a file in another folder with --out, or move it away"
        )


def write_dense_model(
    checkpoint: Path, folder: Path, *, network: str | None = None, trust_code: bool
) -> Path | None:
    """The dense model as a plain ONNX file in `folder`; a file that is there already is kept.

    None if there is no `checkpoint` of it. `network` replaces the name that the checkpoint records.
    """
    if not checkpoint.is_file():
        return None
    path = folder / REFERENCE
    sha256 = sha256_file(checkpoint)
    if path.is_file() and _is_of(path, sha256):
        return path
    content = Checkpoint.open(checkpoint)
    model = restore(content, checkpoint, network=network, trust_code=trust_code)
    assert content.info is not None  # restore has checked it
    metadata = dataclasses.replace(
        metadata_of(model, content.info, content), checkpoint_sha256=sha256
    )
    return onnx_dense.export(to_onnx(model, metadata), metadata, path)


def _is_of(path: Path, checkpoint_sha256: str) -> bool:
    """Whether a file was made from this checkpoint; False if it is damaged or not ours."""
    try:
        return SparseModel.open(path).metadata.checkpoint_sha256 == checkpoint_sha256
    except ModelFileError:
        return False
