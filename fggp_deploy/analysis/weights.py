"""The weights of an ONNX file: what each costs, and what its zeros save."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from fggp_deploy.format.choice import least_bytes
from fggp_deploy.format.packing import REPLACEABLE
from fggp_deploy.format.unpacking import layer_name
from fggp_deploy.graph.constants import overridable
from fggp_deploy.graph.macs import total_macs
from fggp_deploy.graph.shapes import Shapes
from fggp_deploy.graph.view import GraphView
from fggp_deploy.graph.weights import layer_weights, untransposed

WORTH = 0.05  # below this share of zeros, packing saves nothing
_KINDS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Weight:
    """One weight tensor: what it holds, its bytes as stored here and its bytes if packed.

    `of_layer`: a convolution, linear or recurrent layer multiplies it; other constants, such as
    anchors, do not count as weights. `dead_channels` counts output channels that are all zero.
    `macs` are the dense ones for one image, None for a constant that is not `of_layer`, for a layer
    that is not in `graph.macs.LAYERS` and if shapes are not known. `why` says in words what its
    zeros save, or why they save nothing.
    """

    name: str
    op: str
    of_layer: bool
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    stored_bytes: int
    packed_bytes: int
    dead_channels: int
    macs: int | None
    why: str


def weights_of(dense: ModelProto, shapes: Shapes, packed: Mapping[str, int]) -> tuple[Weight, ...]:
    """Every stored weight of a dense graph, in the graph's order.

    `packed` gives the stored bytes of the tensors that the file stores packed.
    """
    view = GraphView(dense.graph)
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in dense.graph.node:
        for name in node.input:
            readers[untransposed(view, name)].append(node)
    constants = view.initializers
    fixed = constants.keys() - overridable(dense.graph)
    layers = layer_weights(dense.graph, constants)
    found = []
    for name, nodes in readers.items():
        users = [n for n in nodes if n.op_type != "Transpose"]
        if name not in constants or not users:
            continue
        w = numpy_helper.to_array(constants[name])
        if w.ndim < 2 or not w.size or w.dtype.kind not in "fiu":
            continue
        stored = packed.get(name, w.nbytes)
        sparsity = float(1 - np.count_nonzero(w) / w.size)
        op = users[0].op_type
        why = _why(op, w.dtype, sparsity, packed=name in packed)
        found.append(
            Weight(
                name=layer_name(name),
                op=op,
                of_layer=name in layers,
                shape=w.shape,
                dtype=str(w.dtype),
                sparsity=sparsity,
                stored_bytes=stored,
                packed_bytes=min(stored, least_bytes(w)) if name in fixed else stored,
                dead_channels=int((~w.reshape(len(w), -1).any(axis=1)).sum()),
                macs=total_macs(layers[name], shapes) if name in layers else None,
                why=why if name in fixed else REPLACEABLE,
            )
        )
    return tuple(found)


def _why(op: str, dtype: np.dtype, sparsity: float, *, packed: bool) -> str:
    if sparsity < WORTH:
        return "dense: it has too few zeros to pack"
    if dtype == np.int8:
        how = "are packed" if packed else "can be packed"
        return f"its zeros {how} for size; there is no sparse kernel for int8"
    if dtype != np.float32:
        return f"its zeros are stored and multiplied; only float32 and int8 are packed, not {dtype}"
    if op not in _KINDS:
        return f"its zeros can be packed for size; there is no sparse kernel for {op}"
    if packed:
        return "packed for size; stock onnxruntime decodes it at load and multiplies the zeros"
    return "its zeros are stored as numbers and multiplied by stock onnxruntime"
