"""Packed weights in one ONNX file: small, and it runs on any ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from fggp_deploy.artifacts.metadata import Metadata
from fggp_deploy.onnx_ops import flatten, pack

from .onnx_dense import write

DEFAULT_NAME = "model.onnx"


def export(dense: ModelProto, metadata: Metadata, path: Path, *, flat: bool = False) -> Path:
    """Packed weights in one ONNX file: small, and it runs on any ONNX Runtime.

    `flat` inlines the `ai.fggp` functions, for tools that know no model-local functions; sparse
    kernels then have nothing to take over. Raises MachineError when the path cannot be written.
    """
    packed = pack(dense)
    return write(flatten(packed) if flat else packed, metadata, path)
