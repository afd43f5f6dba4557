"""How stored parts become a weight, in standard ONNX operators: the bodies of our functions.

Each makes W (float; int8 from `rice_body` without scales) from the inputs that onnx_functions
names and the attribute `weight_shape`. They are part of the file format: see docs/format.md.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper


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


def rice_body(*, scaled: bool = True) -> list[NodeProto]:
    """W.flat[index] = values, times the scales; without `scaled` W is int8.

    Entry i lies at quotients[i]·2^k + Σ_{j ≤ i} (remainders[j] + 1) − 1: `quotients` counts the
    zeros of `high` up to its i-th one.
    """
    node = helper.make_node
    dtype, numbers, whole = (np.float32, "floats", "whole") if scaled else (np.int8, "values", "W")
    nodes = [
        *_shape_and_size(),
        _constant("shifts", np.arange(8, dtype=np.uint8).reshape(1, 8)),
        _constant("low_bit", np.array(1, np.uint8)),
        _constant("one", np.array(1, np.int32)),
        node("Constant", [], ["axis"], value_int=0),
        node("Constant", [], ["row"], value_ints=[-1]),
        node("Constant", [], ["start"], value_ints=[0]),
        node("Constant", [], ["unit"], value_ints=[1]),
        node("Shape", ["values"], ["count"]),
        # quotients: how many zeros stand before each one of `high`
        node("Constant", [], ["column"], value_ints=[-1, 1]),
        node("Reshape", ["high", "column"], ["high_bytes"]),
        node("BitShift", ["high_bytes", "shifts"], ["high_shifted"], direction="RIGHT"),
        node("BitwiseAnd", ["high_shifted", "low_bit"], ["high_by_byte"]),
        node("Reshape", ["high_by_byte", "row"], ["high_bits"]),
        node("Cast", ["high_bits"], ["stops"], to=TensorProto.INT32),
        node("CumSum", ["stops", "axis"], ["entry"], exclusive=1),
        node("Sub", ["one", "stops"], ["passes"]),
        node("CumSum", ["passes", "axis"], ["passed"]),
        node("Add", ["count", "unit"], ["count_and_padding"]),
        node(
            "ConstantOfShape", ["count_and_padding"], ["none_passed"], value=_filling(0, np.int32)
        ),
        node(
            "ScatterElements",
            ["none_passed", "entry", "passed"],
            ["padded_quotients"],
            axis=0,
            reduction="max",
        ),
        node("Slice", ["padded_quotients", "start", "count"], ["quotients"]),
        # remainders: the rows of `low` times 1, 2, 4 …
        node("Shape", ["low"], ["low_shape"]),
        node("Slice", ["low_shape", "start", "unit"], ["k"]),
        node("ConstantOfShape", ["k"], ["ones"], value=_filling(1, np.float32)),
        node("CumSum", ["ones", "axis"], ["exponents"], exclusive=1),
        node("Constant", [], ["two"], value_float=2.0),
        node("Pow", ["two", "exponents"], ["powers"]),
        node("Constant", [], ["low_column"], value_ints=[0, -1, 1]),
        node("Reshape", ["low", "low_column"], ["low_bytes"]),
        node("BitShift", ["low_bytes", "shifts"], ["low_shifted"], direction="RIGHT"),
        node("BitwiseAnd", ["low_shifted", "low_bit"], ["low_by_byte"]),
        node("Constant", [], ["low_rows"], value_ints=[0, -1]),
        node("Reshape", ["low_by_byte", "low_rows"], ["padded_low"]),
        node("Slice", ["padded_low", "start", "count", "unit"], ["low_bits"]),
        node("Cast", ["low_bits"], ["low_floats"], to=TensorProto.FLOAT),
        node("MatMul", ["powers", "low_floats"], ["remainder_floats"]),
        node("Cast", ["remainder_floats"], ["remainders"], to=TensorProto.INT32),
        # index: quotients times 2^k, and the remainders and ones summed up
        node("ReduceSum", ["powers"], ["most"], keepdims=1),
        node("Cast", ["most"], ["mask"], to=TensorProto.INT32),
        node("Add", ["mask", "one"], ["divisor"]),
        node("Mul", ["quotients", "divisor"], ["far"]),
        node("Add", ["remainders", "one"], ["steps"]),
        node("CumSum", ["steps", "axis"], ["near"]),
        node("Add", ["far", "near"], ["ends"]),
        node("Sub", ["ends", "one"], ["index"]),
        node("ConstantOfShape", ["size"], ["zeros"], value=_filling(0, dtype)),
        node("ScatterElements", ["zeros", "index", numbers], ["flat"], axis=0),
        node("Reshape", ["flat", "shape"], [whole]),
    ]
    if scaled:
        nodes.insert(-2, node("Cast", ["values"], ["floats"], to=TensorProto.FLOAT))
        nodes.append(node("Cast", ["scales"], ["factors"], to=TensorProto.FLOAT))
        nodes.append(node("Mul", [whole, "factors"], ["W"]))
    return nodes


def unblock_body() -> list[NodeProto]:
    """Rows of a matrix of blocks = signed magnitudes, on zeros; then the blocks in their places."""
    node = helper.make_node
    block = node("Constant", [], ["block"])
    block.attribute.append(reference("value_ints", "block", AttributeProto.INTS))
    return [
        *_shape_and_size(),
        block,
        node("ReduceProd", ["block"], ["elements"], keepdims=1),
        _constant("nil", np.array(0, np.int64)),
        _constant("one", np.array(1, np.int64)),
        _constant("column", np.array([-1, 1], np.int64)),
        _constant("flat", np.array([-1], np.int64)),
        _constant("begin", np.array([0], np.int64)),
        _constant("second", np.array([1], np.int64)),
        _constant("shifts", np.arange(8, dtype=np.uint8).reshape(1, 8)),
        _constant("low_bit", np.array(1, np.uint8)),
        # the stored blocks' places among all, [n, 1]
        node("Cast", ["gaps"], ["distances"], to=TensorProto.INT64),
        node("CumSum", ["distances", "nil"], ["ends"]),
        node("Sub", ["ends", "one"], ["places"]),
        node("Reshape", ["places", "column"], ["rows"]),
        node("Shape", ["gaps"], ["n"]),
        # which value each of their elements has, [n, elements]
        *_bits("free", "n"),
        node("Cast", ["free_bits"], ["free_flags"], to=TensorProto.INT64),
        node("Sub", ["elements", "one"], ["others"]),
        node("Mul", ["free_flags", "others"], ["more"]),
        node("Add", ["more", "one"], ["widths"]),
        node("CumSum", ["widths", "nil"], ["ends_of_values"]),
        node("Sub", ["ends_of_values", "widths"], ["first"]),
        node("Reshape", ["first", "column"], ["first_column"]),
        node("Reshape", ["free_flags", "column"], ["free_column"]),
        node(
            "ConstantOfShape", ["elements"], ["ones"],
            value=numpy_helper.from_array(np.ones(1, np.int64)),
        ),
        node("CumSum", ["ones", "nil"], ["counts"], exclusive=1),
        node("Mul", ["free_column", "counts"], ["steps"]),
        node("Add", ["first_column", "steps"], ["index"]),
        node("Cast", ["values"], ["floats"], to=TensorProto.FLOAT),
        node("Gather", ["floats", "index"], ["magnitudes"], axis=0),
        # with their signs
        node("Mul", ["n", "elements"], ["n_signs"]),
        *_bits("signs", "n_signs"),
        node("Concat", ["flat", "elements"], ["by_block"], axis=0),
        node("Reshape", ["signs_bits", "by_block"], ["negative_bits"]),
        node("Cast", ["negative_bits"], ["negative"], to=TensorProto.BOOL),
        node("Neg", ["magnitudes"], ["negated"]),
        node("Where", ["negative", "negated", "magnitudes"], ["stored"]),
        # in a matrix of all blocks
        node("Div", ["size", "elements"], ["n_blocks"]),
        node("Concat", ["n_blocks", "elements"], ["all"], axis=0),
        node("ConstantOfShape", ["all"], ["zeros"]),
        node("ScatterND", ["zeros", "rows", "stored"], ["blocks"]),
        # and that as the weight
        node("Slice", ["shape", "begin", "second"], ["height"]),
        node("Slice", ["block", "begin", "second"], ["block_height"]),
        node("Div", ["height", "block_height"], ["grid_height"]),
        node("Div", ["n_blocks", "grid_height"], ["grid_width"]),
        node("Concat", ["grid_height", "grid_width", "block"], ["grid"], axis=0),
        node("Reshape", ["blocks", "grid"], ["by_place"]),
        node("Transpose", ["by_place"], ["by_row"], perm=[0, 2, 1, 3]),
        node("Reshape", ["by_row", "shape"], ["W"]),
    ]  # fmt: skip


def _bits(name: str, count: str) -> list[NodeProto]:
    """The first `count` bits of bytes, uint8 `NAME_bits`."""
    node = helper.make_node
    return [
        node("Reshape", [name, "column"], [f"{name}_bytes"]),
        node("BitShift", [f"{name}_bytes", "shifts"], [f"{name}_shifted"], direction="RIGHT"),
        node("BitwiseAnd", [f"{name}_shifted", "low_bit"], [f"{name}_by_byte"]),
        node("Reshape", [f"{name}_by_byte", "flat"], [f"{name}_padded"]),
        node("Slice", [f"{name}_padded", "begin", count], [f"{name}_bits"]),
    ]


def _shape_and_size() -> list[NodeProto]:
    shape = helper.make_node("Constant", [], ["shape"])
    shape.attribute.append(reference("value_ints", "weight_shape", AttributeProto.INTS))
    return [shape, helper.make_node("ReduceProd", ["shape"], ["size"], keepdims=1)]


def _constant(name: str, value: np.ndarray) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def _filling(value: int, dtype: type[np.generic]) -> TensorProto:
    return numpy_helper.from_array(np.array([value], dtype))


def reference(name: str, to: str, kind: onnx.AttributeProto.AttributeType) -> AttributeProto:
    """An attribute of a body's node that is the function's own attribute `to`."""
    attribute = AttributeProto()
    attribute.name, attribute.ref_attr_name, attribute.type = name, to, kind
    return attribute
