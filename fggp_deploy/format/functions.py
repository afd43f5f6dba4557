"""The operators of domain `ai.fggp` version 1, each defined by standard ONNX operators.

The definitions travel in every packed file as model-local functions, so that a runtime that has
never heard of them inlines and folds them, and one that has a kernel of that name uses it. They
are part of the file format: see docs/format.md. They need opset 18, the first with ReduceProd
over all axes of an input and BitwiseAnd.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.decoders import gaps_body, reference, rice_body, unblock_body, unmask_body
from fggp_deploy.graph.tensors import all_tensors

DOMAIN = "ai.fggp"
VERSION = 1
MIN_OPSET = 18
GEMM_INPUTS = CONV_INPUTS = ("X", "values", "gaps", "B")
UNGAP_INPUTS = ("values", "gaps")
UNMASK_INPUTS = ("values", "bits")
RICE_INPUTS = ("values", "scales", "high", "low")
RICE_INT8_INPUTS = ("values", "high", "low")
CONV8_INPUTS = GEMM8_INPUTS = ("X", *RICE_INPUTS, "B")
UNBLOCK_INPUTS = ("values", "gaps", "free", "signs")
CONV_ATTRIBUTES = ("pads", "strides", "dilations", "group")


def function(name: str, opset: int = MIN_OPSET) -> FunctionProto:
    """The definition of one of `names()` for a model of that standard opset."""
    return _FUNCTIONS[name](opset)


def names() -> tuple[str, ...]:
    """The operators there are."""
    return tuple(_FUNCTIONS)


def is_ours(definition: FunctionProto) -> bool:
    """Whether a file's definition says, node for node, what ours says."""
    if definition.name not in _FUNCTIONS:
        return False
    theirs, ours = FunctionProto(), function(definition.name)
    theirs.CopyFrom(definition)
    for f in (theirs, ours):
        del f.opset_import[:], f.metadata_props[:]
        f.ClearField("doc_string")
    return theirs.SerializeToString(deterministic=True) == ours.SerializeToString(
        deterministic=True
    )


def reject_foreign(model: ModelProto) -> None:
    """Raise ModelFileError for external data, or `ai.fggp` definitions that are not ours."""
    for tensor in all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelFileError(
                f"tensor {tensor.name!r} lies in another file; a deployable file is one file"
            )
    for definition in model.functions:
        if definition.domain == DOMAIN and not is_ours(definition):
            raise ModelFileError(
                f"the file defines {DOMAIN}::{definition.name} in its own way; "
                "only version 1 of docs/format.md is read"
            )
    if len({(f.domain, f.name) for f in model.functions}) < len(model.functions):
        raise ModelFileError("the file defines a function twice")


def _sparse_conv(opset: int) -> FunctionProto:
    body = [*gaps_body(), _conv()]
    return _make("SparseConv", CONV_INPUTS, "Y", body, ["weight_shape", *CONV_ATTRIBUTES], opset)


def _sparse_conv8(opset: int) -> FunctionProto:
    body = [*rice_body(), _conv()]
    return _make("SparseConv8", CONV8_INPUTS, "Y", body, ["weight_shape", *CONV_ATTRIBUTES], opset)


def _conv() -> NodeProto:
    conv = helper.make_node("Conv", ["X", "W", "B"], ["Y"])
    for name in CONV_ATTRIBUTES:
        kind = AttributeProto.INT if name == "group" else AttributeProto.INTS
        conv.attribute.append(reference(name, name, kind))
    return conv


def _sparse_gemm(opset: int) -> FunctionProto:
    nodes = [*gaps_body(), *_gemm()]
    return _make("SparseGemm", GEMM_INPUTS, "Y", nodes, ["weight_shape"], opset)


def _sparse_gemm8(opset: int) -> FunctionProto:
    nodes = [*rice_body(), *_gemm()]
    return _make("SparseGemm8", GEMM8_INPUTS, "Y", nodes, ["weight_shape"], opset)


def _gemm() -> list[NodeProto]:
    return [
        helper.make_node("Transpose", ["W"], ["Wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["X", "Wt"], ["XWt"]),
        helper.make_node("Add", ["XWt", "B"], ["Y"]),
    ]


def _ungap(opset: int) -> FunctionProto:
    return _make("Ungap", UNGAP_INPUTS, "W", gaps_body(), ["weight_shape"], opset)


def _unmask(opset: int) -> FunctionProto:
    return _make("Unmask", UNMASK_INPUTS, "W", unmask_body(), ["weight_shape"], opset)


def _unrice(opset: int) -> FunctionProto:
    return _make("Unrice", RICE_INPUTS, "W", rice_body(), ["weight_shape"], opset)


def _unrice_int8(opset: int) -> FunctionProto:
    nodes = rice_body(scaled=False)
    return _make("UnriceInt8", RICE_INT8_INPUTS, "W", nodes, ["weight_shape"], opset)


def _unblock(opset: int) -> FunctionProto:
    attributes = ["weight_shape", "block"]
    return _make("Unblock", UNBLOCK_INPUTS, "W", unblock_body(), attributes, opset)


_FUNCTIONS: dict[str, Callable[[int], FunctionProto]] = {
    "SparseConv": _sparse_conv,
    "SparseGemm": _sparse_gemm,
    "Ungap": _ungap,
    "Unmask": _unmask,
    "SparseConv8": _sparse_conv8,
    "SparseGemm8": _sparse_gemm8,
    "Unrice": _unrice,
    "UnriceInt8": _unrice_int8,
    "Unblock": _unblock,
}


def _make(
    name: str,
    inputs: tuple[str, ...],
    output: str,
    nodes: list[NodeProto],
    attributes: list[str],
    opset: int,
) -> FunctionProto:
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_function(
        DOMAIN, name, list(inputs), [output], nodes, opsets, attributes=attributes
    )
