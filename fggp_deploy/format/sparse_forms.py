"""Which layers can read a packed weight directly, and which need a decoder in front of them.

An operator of ours takes a node's place only if it computes exactly the same. Everything else that
may read a weight (convolutions of other ranks, transposed ones, recurrent layers, embeddings …)
keeps its standard operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from onnx import NodeProto, TensorProto

from fggp_deploy.graph.nodes import attributes as attributes_of
from fggp_deploy.graph.nodes import is_standard
from fggp_deploy.graph.view import Use

CONV = "Conv"
GEMM = "Gemm"
GEMM_TRANSPOSED = "Gemm of Wᵀ"  # the node holds the weight as [K, N]
Form: TypeAlias = str | None  # one of these, or None: only a decoder in front of the node


def sparse_form(use: Use, shape: tuple[int, ...], constants: Mapping[str, TensorProto]) -> Form:
    """CONV, GEMM or GEMM_TRANSPOSED if that layer computes exactly what the node does, else None.

    `shape` is the weight's, and `constants` are the tensors of the graph that nothing can change.
    """
    node = use.node
    if use.index != 1 or not is_standard(node) or len(node.output) != 1:
        return None
    attributes = attributes_of(node)
    if node.op_type == "Conv":
        return CONV if _is_plain_conv(attributes, shape) else None
    if len(shape) != 2:
        return None
    if node.op_type == "MatMul":
        return None if attributes else GEMM_TRANSPOSED
    if node.op_type == "Gemm":
        transposed = not attributes.pop("transB", 0)
        if attributes.pop("transA", 0) or any(v != 1.0 for v in attributes.values()):
            return None  # what is left are alpha and beta
        width = shape[1] if transposed else shape[0]
        if (
            len(node.input) > 2
            and node.input[2]
            and not _is_vector(node.input[2], width, constants)
        ):
            return None
        return GEMM_TRANSPOSED if transposed else GEMM
    return None


def bias_behind(
    matmul: NodeProto,
    width: int,
    readers: Mapping[str, list[Use]],
    constants: Mapping[str, TensorProto],
) -> NodeProto | None:
    """The Add of a constant vector that alone reads what a MatMul makes, if there is one."""
    uses = readers.get(matmul.output[0], [])
    if len(uses) != 1:
        return None
    add = uses[0].node
    if add.op_type != "Add" or not is_standard(add):
        return None
    return add if _is_vector(add.input[1 - uses[0].index], width, constants) else None


def _is_plain_conv(attributes: dict[str, object], shape: tuple[int, ...]) -> bool:
    known = {"auto_pad", "kernel_shape", "pads", "strides", "dilations", "group"}
    return (
        len(shape) == 4
        and attributes.keys() <= known
        and attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"")
        and tuple(attributes.get("kernel_shape", shape[2:])) == shape[2:]  # type: ignore[arg-type]
    )


def _is_vector(name: str, width: int, constants: Mapping[str, TensorProto]) -> bool:
    tensor = constants.get(name)
    return (
        tensor is not None
        and tensor.data_type == TensorProto.FLOAT
        and tuple(tensor.dims) == (width,)
    )
