"""Nodes that the decoder bodies of several encodings share."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper


def shape_and_size() -> list[NodeProto]:
    """`shape` from the attribute `weight_shape`, and `size`, the number of elements."""
    return [
        attribute_constant("shape", "weight_shape"),
        helper.make_node("ReduceProd", ["shape"], ["size"], keepdims=1),
    ]


def attribute_constant(name: str, attribute: str) -> NodeProto:
    """A Constant of the integers in one of the function's own attributes."""
    node = helper.make_node("Constant", [], [name])
    node.attribute.append(reference("value_ints", attribute, AttributeProto.INTS))
    return node


def constant(name: str, value: np.ndarray) -> NodeProto:
    """A Constant of this value."""
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def fill_value(value: int, dtype: type[np.generic]) -> TensorProto:
    """The attribute `value` of a ConstantOfShape."""
    return numpy_helper.from_array(np.array([value], dtype))


def reference(name: str, to: str, kind: onnx.AttributeProto.AttributeType) -> AttributeProto:
    """An attribute of a body's node that is the function's own attribute `to`."""
    attribute = AttributeProto()
    attribute.name, attribute.ref_attr_name, attribute.type = name, to, kind
    return attribute
