"""The operators of domain `ai.fggp` version 1, each defined by standard ONNX operators.

The definitions travel in every packed file as model-local functions, so that a runtime that has
never heard of them inlines and folds them, and one that has a kernel of that name uses it. They
are part of the file format: see docs/format.md. They need opset 18, the first with ReduceProd
over all axes of an input and BitwiseAnd.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

DOMAIN = "ai.fggp"
VERSION = 1
MIN_OPSET = 18
GEMM_INPUTS = CONV_INPUTS = ("X", "values", "gaps", "B")
UNGAP_INPUTS = ("values", "gaps")
UNMASK_INPUTS = ("values", "bits")
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


def _sparse_conv(opset: int) -> FunctionProto:
    conv = helper.make_node("Conv", ["X", "W", "B"], ["Y"])
    for name in CONV_ATTRIBUTES:
        kind = AttributeProto.INT if name == "group" else AttributeProto.INTS
        conv.attribute.append(_reference(name, name, kind))
    attributes = ["weight_shape", *CONV_ATTRIBUTES]
    return _make("SparseConv", CONV_INPUTS, "Y", [*gaps_body(), conv], attributes, opset)


def _sparse_gemm(opset: int) -> FunctionProto:
    nodes = [
        *gaps_body(),
        helper.make_node("Transpose", ["W"], ["Wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["X", "Wt"], ["XWt"]),
        helper.make_node("Add", ["XWt", "B"], ["Y"]),
    ]
    return _make("SparseGemm", GEMM_INPUTS, "Y", nodes, ["weight_shape"], opset)


def _ungap(opset: int) -> FunctionProto:
    return _make("Ungap", UNGAP_INPUTS, "W", gaps_body(), ["weight_shape"], opset)


def _unmask(opset: int) -> FunctionProto:
    return _make("Unmask", UNMASK_INPUTS, "W", unmask_body(), ["weight_shape"], opset)


_FUNCTIONS: dict[str, Callable[[int], FunctionProto]] = {
    "SparseConv": _sparse_conv,
    "SparseGemm": _sparse_gemm,
    "Ungap": _ungap,
    "Unmask": _unmask,
}


def gaps_body() -> list[NodeProto]:
    """W.flat[cumsum(gaps) − 1] = values, on zeros."""
    node = helper.make_node
    return [
        *_shape_and_size(),
        node("ConstantOfShape", ["size"], ["zeros"]),
        node("Cast", ["gaps"], ["distances"], to=TensorProto.INT32),
        node("Constant", [], ["axis"], value_int=0),
        node("CumSum", ["distances", "axis"], ["ends"]),
        _constant("one", np.array(1, np.int32)),
        node("Sub", ["ends", "one"], ["index"]),
        node("Cast", ["values"], ["floats"], to=TensorProto.FLOAT),
        node("ScatterElements", ["zeros", "index", "floats"], ["flat"], axis=0),
        node("Reshape", ["flat", "shape"], ["W"]),
    ]


def unmask_body() -> list[NodeProto]:
    """W = Where(bit, Gather(values, max(cumsum(bit) − 1, 0)), 0); ORT does not fold NonZero."""
    node = helper.make_node
    return [
        *_shape_and_size(),
        node("Constant", [], ["column"], value_ints=[-1, 1]),
        node("Reshape", ["bits", "column"], ["bytes"]),
        _constant("shifts", np.arange(8, dtype=np.uint8).reshape(1, 8)),
        node("BitShift", ["bytes", "shifts"], ["shifted"], direction="RIGHT"),
        _constant("low_bit", np.array(1, np.uint8)),
        node("BitwiseAnd", ["shifted", "low_bit"], ["by_byte"]),
        node("Constant", [], ["row"], value_ints=[-1]),
        node("Reshape", ["by_byte", "row"], ["padded"]),
        node("Constant", [], ["start"], value_ints=[0]),
        node("Slice", ["padded", "start", "size"], ["ones"]),
        node("Cast", ["ones"], ["counts"], to=TensorProto.INT32),
        node("Constant", [], ["axis"], value_int=0),
        node("CumSum", ["counts", "axis"], ["ends"]),
        _constant("one", np.array(1, np.int32)),
        node("Sub", ["ends", "one"], ["before"]),
        _constant("first", np.array(0, np.int32)),
        node("Max", ["before", "first"], ["index"]),
        node("Cast", ["values"], ["floats"], to=TensorProto.FLOAT),
        node("Gather", ["floats", "index"], ["gathered"], axis=0),
        node("Cast", ["ones"], ["kept"], to=TensorProto.BOOL),
        node("Constant", [], ["zero"], value_float=0.0),
        node("Where", ["kept", "gathered", "zero"], ["flat"]),
        node("Reshape", ["flat", "shape"], ["W"]),
    ]


def _shape_and_size() -> list[NodeProto]:
    shape = helper.make_node("Constant", [], ["shape"])
    shape.attribute.append(_reference("value_ints", "weight_shape", AttributeProto.INTS))
    return [shape, helper.make_node("ReduceProd", ["shape"], ["size"], keepdims=1)]


def _constant(name: str, value: np.ndarray) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def _reference(name: str, to: str, kind: onnx.AttributeProto.AttributeType) -> AttributeProto:
    attribute = AttributeProto()
    attribute.name, attribute.ref_attr_name, attribute.type = name, to, kind
    return attribute


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
