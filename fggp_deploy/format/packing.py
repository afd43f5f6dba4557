"""Packs an ONNX graph: stores weights with many zeros in an encoding.

`pack` and `flatten` take a model and return a new one that computes the same. Initializers keep the
layers' names: the parts of `layer1.0.conv1.weight` are `layer1.0.conv1.weight.values` and so on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings import ENCODINGS
from fggp_deploy.format.encodings.base import ValueType
from fggp_deploy.format.encodings.checks import MAX_ELEMENTS
from fggp_deploy.format.functions import DOMAIN, MIN_OPSET, VERSION, function
from fggp_deploy.format.sparse_forms import Form, bias_behind, sparse_form
from fggp_deploy.format.storage import Decision, StoredWeight, decide
from fggp_deploy.graph.constants import constant_initializers, overridable
from fggp_deploy.graph.lifting import lift_weights
from fggp_deploy.graph.nodes import subgraphs
from fggp_deploy.graph.opset import drop_opsets_, standard_opset, with_opset
from fggp_deploy.graph.view import GraphView

REPLACEABLE = (
    "it is a graph input too, so a caller may feed another in its place (exporters: "
    "keep_initializers_as_inputs=False)"
)
_OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_OTHER_QUANTIZED = (TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
_WEIGHTS = (TensorProto.FLOAT, TensorProto.INT8, *_OTHER_FLOATS, *_OTHER_QUANTIZED)
_CURES = {
    "float16": "export the network in float32 and pack with --values fp16, which stores the same "
    "bytes",
    "bfloat16": "export the network in float32",
}


@dataclass(frozen=True)
class Packing:
    """A packed model, and which weights were not packed as asked.

    Both are keyed by the weight's name. `left_dense` says why a float or quantized tensor of two or
    more dimensions is unchanged, `left_fp32` why its values are float32 although float16 or int8
    was asked for.
    """

    model: ModelProto
    left_dense: dict[str, str]
    left_fp32: dict[str, str]

    @classmethod
    def of(cls, model: ModelProto, *, values: ValueType = np.float32) -> Packing:
        """Store each weight in its smallest encoding; a model that would not shrink is copied.

        If the encoding has an operator for the layer (Conv with two spatial dimensions and explicit
        pads, Gemm with alpha = beta = 1, MatMul with a constant matrix on the right), that operator
        takes the layer's place. Any other weight gets its decoder in front of it. `values` float16
        rounds float32 values, except those of weights that it cannot hold; int8 rounds them to
        whole numbers with a scale per output channel. An int8 weight (of a QDQ model) keeps its
        values. Requires a model without `ai.fggp` operators; raises ModelFileError otherwise.
        """
        if any(n.domain == DOMAIN for n in model.graph.node):
            raise ModelFileError("the model is packed already; unpack it first")
        return _Packer(with_opset(model, MIN_OPSET), values).run()

    @classmethod
    def beside_regions(cls, model: ModelProto) -> Packing:
        """Pack the weights that the regions of a compiled model do not read.

        They get decoders only: no layer beside a region runs on the kernels. Requires standard
        opset 18 or newer.
        """
        return _Packer(model, np.float32, decoders_only=True).run()


def pack(model: ModelProto) -> ModelProto:
    """The model of `Packing.of` with float32 values: bit for bit the same network."""
    return Packing.of(model).model


def flatten(model: ModelProto) -> ModelProto:
    """Inline every `ai.fggp` function, for tools that do not support model-local functions."""
    flat = onnx.inliner.inline_local_functions(model)
    drop_opsets_(flat, (DOMAIN,))
    return flat


class _Packer:
    """One packing of one model: first a decision per weight, then each node is rewritten."""

    def __init__(
        self, model: ModelProto, values: ValueType, *, decoders_only: bool = False
    ) -> None:
        self.original = model
        self.decoders_only = decoders_only
        self.model = lift_weights(model)
        self.graph = self.model.graph
        self.values = values
        self.constants = constant_initializers(self.graph)
        self.overridable = overridable(self.graph)
        self.view = GraphView(self.graph)
        self.taken = set(self.view.names)
        self.left_dense: dict[str, str] = {}
        self.left_fp32: dict[str, str] = {}
        self.zero_biases: dict[int, TensorProto] = {}
        self.fused: set[str] = set()  # outputs of MatMuls whose Add became the operator's bias

    def run(self) -> Packing:
        """The packed model, or a copy of the original if that is no larger."""
        _explain_inner(self.graph, self.left_dense)
        stored = self._decide()
        out = self._rewritten(stored)
        if not stored or out.ByteSize() >= self.original.ByteSize():
            out.CopyFrom(self.original)
            why = "the file as a whole would be no smaller"
            self.left_dense = dict.fromkeys(stored, why) | self.left_dense
            self.left_fp32 = {}
        return Packing(out, self.left_dense, self.left_fp32)

    def _decide(self) -> dict[str, StoredWeight]:
        """How each packed weight is stored, by its name."""
        decisions: dict[str, Decision] = {}
        for tensor in self.graph.initializer:
            if len(tensor.dims) < 2 or tensor.data_type not in _WEIGHTS:
                continue
            if why := self._excluded(tensor):
                self.left_dense[tensor.name] = why
            else:
                w = numpy_helper.to_array(tensor)
                found = decide(w, self._form(tensor.name, w.shape), self.values)
                decisions[tensor.name] = found
                if found.why_dense:
                    self.left_dense[tensor.name] = found.why_dense
                if found.why_fp32:
                    self.left_fp32[tensor.name] = found.why_fp32
        stored = {name: d.stored for name, d in decisions.items() if d.stored is not None}
        alternatives = _worth_their_definition(decisions)
        for name in alternatives:
            self.left_dense.pop(name, None)
        return stored | alternatives

    def _excluded(self, tensor: TensorProto) -> str:
        """Why a tensor of two or more dimensions cannot be packed; empty if it can be."""
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        if tensor.data_type in _OTHER_QUANTIZED:
            return f"it is {kind}, quantized; only float and int8 are packed"
        if tensor.data_type in _OTHER_FLOATS:
            cure = _CURES.get(kind, "convert it to float32")
            return f"it is {kind}; only float32 is packed, {cure}"
        if tensor.name in self.overridable:
            return REPLACEABLE
        parts = {part for encoding in ENCODINGS for part in encoding.parts}
        if {f"{tensor.name}.{part}" for part in parts} & self.taken:
            return "the names of its parts are taken"
        if math.prod(tensor.dims) > MAX_ELEMENTS:
            return f"it has more than {MAX_ELEMENTS:,} elements"
        if any(use.node.domain == DOMAIN for use in self.view.uses[tensor.name]):
            return "a region reads it as it is"
        return ""

    def _form(self, name: str, shape: tuple[int, ...]) -> Form:
        """The one form of layer that all readers of a weight allow, if there is one."""
        if self.decoders_only or name in self.view.read_outside:
            return None
        forms = {sparse_form(use, shape, self.constants) for use in self.view.uses[name]}
        return forms.pop() if len(forms) == 1 else None

    def _rewritten(self, stored: dict[str, StoredWeight]) -> ModelProto:
        """The graph with these weights packed, and the definitions of their operators."""
        out = ModelProto()
        out.CopyFrom(self.model)
        graph = out.graph
        del graph.node[:], graph.initializer[:]
        graph.node.extend(s.decoder_node(name) for name, s in stored.items() if s.form is None)
        rewritten = [self._rewrite(node, stored) for node in self.graph.node]
        graph.node.extend(n for n in rewritten if self.fused.isdisjoint(n.input))
        for tensor in self.graph.initializer:
            if tensor.name in stored:
                graph.initializer.extend(stored[tensor.name].tensors(tensor.name))
            else:
                graph.initializer.append(tensor)
        graph.initializer.extend(self.zero_biases.values())
        out.ir_version = max(out.ir_version, 8)  # the first with functions
        opset = standard_opset(out)
        known = {f.name for f in out.functions if f.domain == DOMAIN}
        names = {s.operator for s in stored.values()} - known
        out.functions.extend(function(name, opset) for name in sorted(names))
        if all(o.domain != DOMAIN for o in out.opset_import):
            out.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
        return out

    def _rewrite(self, node: NodeProto, stored: dict[str, StoredWeight]) -> NodeProto:
        """The operator that takes a layer's place, or the node itself."""
        weight = node.input[1] if len(node.input) > 1 else ""
        found = stored.get(weight)
        if found is None or found.form is None:
            return node
        width = found.packed.shape[0]
        output, bias = node.output[0], node.input[2] if len(node.input) > 2 else ""
        if node.op_type == "MatMul" and output not in self.view.read_outside:
            add = bias_behind(node, width, self.view.uses, self.constants)
            if add is not None:
                self.fused.add(output)
                bias = next(name for name in add.input if name != output)
                output = add.output[0]
        return found.layer_node(node, weight, bias or self._zero_bias(width), output)

    def _zero_bias(self, size: int) -> str:
        """The name of `size` zeros, one tensor for all layers of that width."""
        if size not in self.zero_biases:
            name = f"zeros.{size}"
            while name in self.taken:
                name += "_"
            self.taken.add(name)
            self.zero_biases[size] = numpy_helper.from_array(np.zeros(size, np.float32), name)
        return self.zero_biases[size].name


def _worth_their_definition(decisions: dict[str, Decision]) -> dict[str, StoredWeight]:
    """The alternatives of those encodings whose decoder's definition takes less than they save."""
    saved: dict[str, int] = defaultdict(int)
    for d in decisions.values():
        if d.alternative is not None:
            saved[d.alternative.packed.operators.decoder] += d.saved
    worth = {decoder for decoder, n in saved.items() if n > function(decoder).ByteSize()}
    return {
        name: d.alternative
        for name, d in decisions.items()
        if d.alternative is not None and d.alternative.packed.operators.decoder in worth
    }


def _explain_inner(graph: GraphProto, left_dense: dict[str, str]) -> None:
    """Weights of subgraphs (If, Loop) are left alone."""
    floats = (TensorProto.FLOAT, *_OTHER_FLOATS)
    for node in graph.node:
        for inner in subgraphs(node):
            for tensor in inner.initializer:
                if len(tensor.dims) >= 2 and tensor.data_type in floats:
                    left_dense[tensor.name] = f"it belongs to a subgraph of {node.op_type}"
            _explain_inner(inner, left_dense)
