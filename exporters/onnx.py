"""Packed weights in one ONNX file: small, and it runs on any ONNX Runtime."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto

from fggp_deploy.format.encodings.base import ValueType
from fggp_deploy.format.generated_inputs import many_feeds
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.packing import Packing, flatten
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.comparison import noise
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
    if values != "fp32" and (exact_test := metadata.selftest) is not None:
        unrounded, rounded = copy.deepcopy(dense), unpack(packing.model)
        in_bytes = remove_activation_quantization_(unrounded)
        found = _rounding(values, unrounded, rounded, exact_test)
        found = replace(found, activations=in_bytes)
        note(found.sentence())
        warn(found)
        rounded_test = _self_test(rounded, exact_test, in_bytes=in_bytes)
        metadata = replace(metadata, selftest=rounded_test, unrounded=exact_test)
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


def _rounding(values: str, exact: ModelProto, rounded: ModelProto, test: SelfTest) -> Rounding:
    """What rounding changes on inputs like those of the self-test, but on more of them."""
    inputs = test.inputs
    if test.rows:  # one image at a time
        inputs = tuple(replace(i, shape=(1, *i.shape[1:])) for i in inputs)
    before, after = _opened("the network", exact), _opened("the rounded network", rounded)
    return rounding(
        values,
        lambda feeds: list(before.outputs(feeds).values()),
        lambda feeds: list(after.outputs(feeds).values()),
        many_feeds(inputs, N_INPUTS),
    )


def _self_test(network: ModelProto, like: SelfTest, *, in_bytes: bool) -> SelfTest:
    """The same self-test with the outputs of another network."""
    found = _opened("the rounded network", network).outputs(like.feeds())
    if like.rows:
        (logits,), (_, c, h, w) = found.values(), like.inputs[0].shape
        return SelfTest.of_logits(like.seed, logits, (c, h, w), in_bytes=in_bytes)
    plain = _opened("the rounded network", network, optimize=False).outputs(like.feeds())
    return SelfTest.record(like.inputs, found, noise(found, plain))


def _opened(name: str, network: ModelProto, *, optimize: bool = True) -> Network:
    return load(name, network.SerializeToString(), threads=1, optimize=optimize)
