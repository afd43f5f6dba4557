"""Packed weights in one ONNX file: small, and it runs on any ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto

from fggp_deploy.artifacts.metadata import Metadata
from fggp_deploy.artifacts.selftest import SelfTest
from fggp_deploy.onnx_activations import rounds_activations
from fggp_deploy.onnx_ops import Packing, ValueType, flatten, unpack
from fggp_deploy.verify.network import load

from . import VALUES, Note, silent
from .onnx_dense import write

DEFAULT_NAME = "model.onnx"
TYPES: dict[str, ValueType] = dict(zip(VALUES, (np.float32, np.float16, np.int8), strict=True))


def export(
    dense: ModelProto,
    metadata: Metadata,
    path: Path,
    *,
    flat: bool = False,
    values: str = "fp32",
    note: Note = silent,
) -> Path:
    """Packed weights in one ONNX file: small, and it runs on any ONNX Runtime.

    `flat` inlines the `ai.fggp` functions, for tools that know no model-local functions; sparse
    kernels then have nothing to take over. `values` fp16 and int8 round the packed weights; the
    file's self-test is then that of the rounded network, `unrounded` in its metadata the other.
    `note` hears of every weight that was left dense or fp32. Raises MachineError when the path
    cannot be written.
    """
    packing = Packing.of(dense, values=TYPES[values])
    for name, why in packing.left_dense.items():
        note(f"left dense: {name}: {why}")
    for name, why in packing.left_fp32.items():
        note(f"left fp32: {name}: {why}")
    if values != "fp32" and metadata.selftest is not None:
        rounded = _self_test(unpack(packing.model), metadata.selftest, metadata)
        metadata = replace(metadata, selftest=rounded, unrounded=metadata.selftest)
    return write(flatten(packing.model) if flat else packing.model, metadata, path)


def _self_test(model: ModelProto, like: SelfTest, metadata: Metadata) -> SelfTest:
    """The same self-test with the logits of another network."""
    network = load("the rounded network", model.SerializeToString(), threads=1)
    return SelfTest.record(
        network.logits,
        metadata.preprocessing.input_shape,
        seed=like.seed,
        batch=len(like.logits),
        in_bytes=rounds_activations(model),
    )
