"""Ordinary ONNX with the zeros written out: as large as the dense network."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, helper

from fggp_deploy.common.files import write_atomic
from fggp_deploy.format.metadata import Metadata

from . import Note, silent

DEFAULT_NAME = "model.dense.onnx"


def export(dense: ModelProto, metadata: Metadata, path: Path, *, note: Note = silent) -> Path:
    """Ordinary ONNX with the zeros written out: as large as the dense network.

    Raises MachineError if the path cannot be written.
    """
    return write(dense, metadata, path)


def write(model: ModelProto, metadata: Metadata, path: Path) -> Path:
    """Write a model with its metadata, atomically; the same content gives the same bytes."""
    out = ModelProto()
    out.CopyFrom(model)
    helper.set_model_props(out, metadata.to_props())
    write_atomic(path, out.SerializeToString(deterministic=True))
    return path
