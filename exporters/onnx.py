"""Packed weights in one ONNX file: small, and it runs on any ONNX Runtime."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto

from fggp_deploy.format.encodings.base import ValueType
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.packing import Packing, flatten
from fggp_deploy.format.self_test import SelfTest, probe
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.qdq import remove_activation_quantization_
from fggp_deploy.measure.network import Network, load
from fggp_deploy.runtime.region_file import with_regions

from . import Note, silent
from .onnx_dense import write
from .options import VALUES
from .rounding import N_INPUTS, Rounding, rounding, warn

DEFAULT_NAME = "model.onnx"
TYPES: dict[str, ValueType] = dict(zip(VALUES, (np.float32, np.float16, np.int8), strict=True))


def export(
    dense: ModelProto,
    metadata: Metadata,
    path: Path,
    *,
    flat: bool = False,
    regions: bool = False,
    values: str = "fp32",
    note: Note = silent,
) -> Path:
    """Packed weights in one ONNX file: small, and it runs on any ONNX Runtime.

    `flat` inlines the `ai.fggp` functions, for tools that do not support model-local functions; the
    sparse kernels then find no operators in the file. `regions` writes connected layers as single
    nodes, so that programs that only register the kernels have their full speed. `values` fp16 and
    int8 round the packed weights; the file's self-test is then that of the rounded network, and
    `unrounded` in its metadata that of the network before. `note` is called with what rounding
    changes, and with every weight that was left dense or fp32. Warns if rounding changes much.
    Raises MachineError if the path cannot be written, and for `regions` without the kernel library.
    """
    packing = Packing.of(dense, values=TYPES[values])
    if values != "fp32" and metadata.selftest is not None:
        unrounded = copy.deepcopy(dense)
        in_bytes = remove_activation_quantization_(unrounded)
        exact, rounded = (
            load(name, model.SerializeToString(), threads=1)
            for name, model in (
                ("the network", unrounded),
                ("the rounded network", unpack(packing.model)),
            )
        )
        found = replace(_rounding(values, exact, rounded, metadata), activations=in_bytes)
        note(found.sentence())
        warn(found)
        metadata = replace(
            metadata,
            selftest=_self_test(rounded, metadata.selftest, metadata, in_bytes=in_bytes),
            unrounded=metadata.selftest,
        )
    for name, why in packing.left_dense.items():
        note(f"left dense: {name}: {why}")
    for name, why in packing.left_fp32.items():
        note(f"left fp32: {name}: {why}")
    model = packing.model
    if flat:
        model = flatten(model)
    elif regions:
        model, what = with_regions(model)
        note(f"regions: {what}")
    return write(model, metadata, path)


def _rounding(values: str, exact: Network, rounded: Network, metadata: Metadata) -> Rounding:
    """What rounding changes on inputs like those of the self-test, but on more of them."""
    shape = metadata.preprocessing.input_shape
    size = math.prod(shape)
    inputs = ({"x": probe(0, (1, *shape), start=i * size)} for i in range(N_INPUTS))
    return rounding(
        values,
        lambda feeds: [exact.logits(feeds["x"])],
        lambda feeds: [rounded.logits(feeds["x"])],
        inputs,
    )


def _self_test(network: Network, like: SelfTest, metadata: Metadata, *, in_bytes: bool) -> SelfTest:
    """The same self-test with the logits of another network."""
    return SelfTest.record(
        network.logits,
        metadata.preprocessing.input_shape,
        seed=like.seed,
        batch=len(like.logits),
        in_bytes=in_bytes,
    )
