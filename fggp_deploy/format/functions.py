"""The operators of domain `ai.fggp` version 1, each defined by standard ONNX operators.

Every packed file carries the definitions of its operators as model-local functions. A runtime that
does not know the operators inlines and folds them; one that has a kernel of that name uses it. The
definitions are part of the file format: see docs/format.md. They need opset 18, the first with
ReduceProd over all axes of an input and BitwiseAnd.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings import ENCODINGS, PackedEncoding
from fggp_deploy.format.encodings.nodes import reference
from fggp_deploy.graph.tensors import all_tensors

DOMAIN = "ai.fggp"
VERSION = 1
MIN_OPSET = 18
CONV_ATTRIBUTES = ("pads", "strides", "dilations", "group")


@dataclass(frozen=True)
class Operator:
    """An operator that reads a weight in one encoding.

    `layer` is the standard operator that it stands for, "Conv" or "Gemm"; None for a decoder, which
    makes the dense weight.
    """

    name: str
    encoding: type[PackedEncoding]
    layer: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs: the weight's parts; of a layer X before them and B behind them."""
        parts = self.encoding.parts
        return parts if self.layer is None else ("X", *parts, "B")

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes."""
        window = CONV_ATTRIBUTES if self.layer == "Conv" else ()
        return ("weight_shape", *self.encoding.attributes, *window)

    def definition(self, opset: int = MIN_OPSET) -> FunctionProto:
        """The model-local function, for a model of that standard opset."""
        tail = {None: [], "Conv": [_conv()], "Gemm": _gemm()}[self.layer]
        return helper.make_function(
            DOMAIN,
            self.name,
            list(self.inputs),
            ["W" if self.layer is None else "Y"],
            [*self.encoding.decoder_body(), *tail],
            [helper.make_opsetid("", opset)],
            attributes=list(self.attributes),
        )


def operators() -> dict[str, Operator]:
    """All operators by name, those of every encoding."""
    return {o.name: o for encoding in ENCODINGS for o in _operators_of(encoding)}


def _operators_of(encoding: type[PackedEncoding]) -> Iterator[Operator]:
    names = encoding.operators
    yield Operator(names.decoder, encoding)
    if names.conv is not None:
        yield Operator(names.conv, encoding, "Conv")
    if names.gemm is not None:
        yield Operator(names.gemm, encoding, "Gemm")


def layer_operator(node: NodeProto) -> Operator | None:
    """The operator of a layer that reads a packed weight; None if the node is anything else."""
    found = operators().get(node.op_type) if node.domain == DOMAIN else None
    return found if found is not None and found.layer is not None else None


def function(name: str, opset: int = MIN_OPSET) -> FunctionProto:
    """The definition of the operator of that name for a model of that standard opset."""
    return operators()[name].definition(opset)


def reject_foreign(model: ModelProto) -> None:
    """Raise ModelFileError for external data, or `ai.fggp` definitions that are not ours."""
    for tensor in all_tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelFileError(
                f"tensor {tensor.name!r} is stored in another file; a file to deploy must hold "
                "all of its tensors"
            )
    for definition in model.functions:
        if definition.domain == DOMAIN and not _is_ours(definition):
            raise ModelFileError(
                f"the file defines {DOMAIN}::{definition.name} differently from version 1 of "
                "docs/format.md, the only one that is read"
            )
    if len({(f.domain, f.name) for f in model.functions}) < len(model.functions):
        raise ModelFileError("the file defines a function twice")


def _is_ours(definition: FunctionProto) -> bool:
    """Whether a file's definition is the same as ours, node for node."""
    operator = operators().get(definition.name)
    if operator is None:
        return False
    theirs, ours = FunctionProto(), operator.definition()
    theirs.CopyFrom(definition)
    for f in (theirs, ours):
        del f.opset_import[:], f.metadata_props[:]
        f.ClearField("doc_string")
    return theirs.SerializeToString(deterministic=True) == ours.SerializeToString(
        deterministic=True
    )


def _conv() -> NodeProto:
    conv = helper.make_node("Conv", ["X", "W", "B"], ["Y"])
    for name in CONV_ATTRIBUTES:
        kind = AttributeProto.INT if name == "group" else AttributeProto.INTS
        conv.attribute.append(reference(name, name, kind))
    return conv


def _gemm() -> list[NodeProto]:
    return [
        helper.make_node("Transpose", ["W"], ["Wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["X", "Wt"], ["XWt"]),
        helper.make_node("Add", ["XWt", "B"], ["Y"]),
    ]
