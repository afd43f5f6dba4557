"""The dense parent beside an exported file, which verify measures against."""

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


def refuse_to_replace(folder: Path, parent: Path) -> None:
    """Raise ConfigError where `folder` holds the reference of another network."""
    path = folder / REFERENCE
    if not path.is_file() or not parent.is_file():
        return
    try:
        same = SparseModel.open(path).metadata.checkpoint_sha256 == sha256_file(parent)
    except ModelFileError:
        same = False
    if not same:
        raise ConfigError(
            f"{path} is not the parent of this network and would be replaced; "
            "name a file in another folder with --out, or move it away"
        )


def write_reference(
    parent: Path, folder: Path, *, network: str | None = None, trust_code: bool
) -> Path | None:
    """The parent as a plain ONNX file in `folder`; kept when it is there already.

    `network`: what it is built by, in place of what the parent says.
    """
    if not parent.is_file():
        return None
    path = folder / REFERENCE
    sha256 = sha256_file(parent)
    if path.is_file():
        try:
            if SparseModel.open(path).metadata.checkpoint_sha256 == sha256:
                return path
        except ModelFileError:
            pass  # not ours or damaged: written anew
    content = Checkpoint.open(parent)
    model = restore(content, parent, network=network, trust_code=trust_code)
    assert content.info is not None  # restore has seen it
    metadata = dataclasses.replace(
        metadata_of(model, content.info, content), checkpoint_sha256=sha256
    )
    return onnx_dense.export(to_onnx(model, metadata), metadata, path)
