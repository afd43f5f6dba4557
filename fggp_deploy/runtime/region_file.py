"""Files whose regions are single nodes: what `compile` writes, and `export` and `pack` on demand.

A program that registers the kernel library runs each region as one operator. Any other ONNX Runtime
inlines the function of the same name, which holds the region's layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from fggp_deploy import kernels
from fggp_deploy.format.compiled import COMPILED
from fggp_deploy.format.packing import Packing
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.opset import drop_opsets_
from fggp_deploy.runtime.compiler import compile_model
from fggp_deploy.runtime.plan import CompileRequest
from fggp_deploy.runtime.sessions import SessionConfig


def with_regions(packed: ModelProto) -> tuple[ModelProto, str]:
    """A packed model with its regions as single nodes, and how many these are, in words.

    The cost model chooses the regions. They fit any machine, and take the threads of each session.
    A model without a region that would pay is returned as it is, with the reason. Requires
    standard opset 18 or newer. Raises MachineError without the kernel library.
    """
    kernels.load()
    content: bytes = unpack(packed).SerializeToString()
    compiled = compile_model(content, CompileRequest(SessionConfig(), measure=False, portable=True))
    if compiled.model is None:
        return packed, compiled.plan.reason
    return finished(compiled.model, packed), compiled.plan.reason


def finished(
    compiled: bytes, source: ModelProto, about: Mapping[str, Any] | None = None
) -> ModelProto:
    """A compiled model as a file: small, no opsets but those used, the metadata of its source.

    `about` is what the file records of the machine that it was tuned for; None for any machine.
    """
    model = Packing.beside_regions(onnx.load_model_from_string(compiled)).model
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".values") and tensor.data_type == TensorProto.FLOAT:
            _halve_(tensor)
    domains = {n.domain for n in model.graph.node} | {"", "ai.onnx"}
    drop_opsets_(model, {o.domain for o in model.opset_import} - domains)
    model.ir_version = max(8, min(model.ir_version, source.ir_version))
    taken = {p.key for p in model.metadata_props}
    for prop in source.metadata_props:
        if prop.key not in taken:
            model.metadata_props.add(key=prop.key, value=prop.value)
    if about is not None:
        model.metadata_props.add(key=COMPILED, value=json.dumps(about, sort_keys=True))
    onnx.checker.check_model(model)
    return model


def _halve_(tensor: TensorProto) -> None:
    """Store values as float16 if they are exactly that, as after `export --values fp16`."""
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if np.array_equal(halves.astype(np.float32), values):
        tensor.CopyFrom(numpy_helper.from_array(halves, tensor.name))
