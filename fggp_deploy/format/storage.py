"""Decides how a weight is stored in a packed file: its encoding, and the operator that reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from fggp_deploy.errors import ConfigError
from fggp_deploy.format.choice import NODE_BYTES, candidates, choose
from fggp_deploy.format.encodings import PackedEncoding
from fggp_deploy.format.encodings.base import ValueType
from fggp_deploy.format.encodings.checks import Array
from fggp_deploy.format.functions import DOMAIN
from fggp_deploy.format.sparse_forms import CONV, GEMM_TRANSPOSED, Form
from fggp_deploy.graph.nodes import attributes

LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True)
class StoredWeight:
    """A packed weight and its reader: a layer of that form, or a decoder in front of the readers.

    Layers of GEMM_TRANSPOSED hold the weight transposed.
    """

    packed: PackedEncoding
    form: Form

    @classmethod
    def of(
        cls, w: Array, encoding: type[PackedEncoding], form: Form, values: ValueType
    ) -> StoredWeight:
        """A weight in that encoding, for layers of that form if the encoding has an operator."""
        form = form if operator_for(encoding, form) else None
        return cls(encoding.encode(_oriented(w, form), values=values), form)

    @property
    def operator(self) -> str:
        """Name of the `ai.fggp` operator."""
        return operator_for(type(self.packed), self.form) or self.packed.operators.decoder

    def part_names(self, weight: str) -> list[str]:
        """Names of its initializers, in the order of the operator's inputs."""
        return [f"{weight}.{part}" for part in self.packed.parts]

    def tensors(self, weight: str) -> list[TensorProto]:
        """Its initializers."""
        return [numpy_helper.from_array(a, f"{weight}.{p}") for p, a in self.packed.arrays.items()]

    def decoder_node(self, weight: str) -> NodeProto:
        """The node that makes the weight under its own name."""
        return self._node(weight, self.part_names(weight), f"{weight}.{self.operator.lower()}")

    def layer_node(self, node: NodeProto, weight: str, bias: str, output: str) -> NodeProto:
        """The layer that takes a standard node's place, reading the packed weight and this bias."""
        inputs = [node.input[0], *self.part_names(weight), bias]
        out = self._node(output, inputs, node.name)
        if self.form == CONV:
            given = attributes(node)
            defaults = {"pads": [0] * 4, "strides": [1] * 2, "dilations": [1] * 2, "group": 1}
            for key, default in defaults.items():
                out.attribute.append(helper.make_attribute(key, given.get(key, default)))
        return out

    def _node(self, output: str, inputs: list[str], name: str) -> NodeProto:
        node = helper.make_node(self.operator, inputs, [output], name=name, domain=DOMAIN)
        given = {"weight_shape": self.packed.shape, **self.packed.attribute_values}
        for key, value in given.items():
            node.attribute.append(helper.make_attribute(key, value))
        return node


@dataclass(frozen=True)
class Decision:
    """How to store a weight.

    Without `stored` the weight stays dense, and `why_dense` says why. `why_fp32` says why values
    are float32 although another type was asked for. `alternative` is the weight in an encoding that
    must save its definition, and `saved` how many bytes fewer it takes; None if it takes no fewer.
    """

    stored: StoredWeight | None
    why_dense: str = ""
    why_fp32: str = ""
    alternative: StoredWeight | None = None
    saved: int = 0


def decide(w: Array, form: Form, values: ValueType) -> Decision:
    """How to store a weight, float32 or int8, whose readers allow a layer of that form.

    `values` is the type to which float32 values are rounded. An int8 weight keeps its values.
    """
    why_fp32 = ""
    if w.dtype == np.int8:
        packed = choose(w, values=np.int8)
        if packed is not None:
            return Decision(StoredWeight(packed, None))
        return Decision(None, f"{_zeros(w)} zeros, dense is no larger" if w.size else "it is empty")
    if values is np.int8:
        try:
            return _decide_int8(w, form)
        except ConfigError as e:
            values, why_fp32 = np.float32, str(e)
    largest = float(np.abs(w).max(initial=0))
    if values is np.float16 and not largest <= LARGEST_FLOAT16:
        values = np.float32
        why_fp32 = f"it holds {largest:.3g}, float16 ends at {LARGEST_FLOAT16:g}"
    return _decide_float(w, form, values, why_fp32)


def operator_for(encoding: type[PackedEncoding], form: Form) -> str | None:
    """The encoding's operator for a layer of that form; None if it has none, or without a form."""
    if form is None:
        return None
    return encoding.operators.conv if form == CONV else encoding.operators.gemm


def _decide_int8(w: Array, form: Form) -> Decision:
    """The same with int8 values; raises ConfigError if they cannot hold what the weight holds.

    A layer reads the packed weight only if it would in a float32 file: denser weights run faster
    when they are decoded.
    """
    axis = 1 if form == GEMM_TRANSPOSED else 0
    packed = choose(w, values=np.int8, output_axis=axis)
    if packed is None:
        return Decision(None, f"{w.size:,} elements, dense is no larger")
    as_float = choose(w)
    if operator_for(type(packed), form) and as_float and operator_for(type(as_float), form):
        return Decision(StoredWeight.of(w, type(packed), form, np.int8))
    return Decision(StoredWeight(packed, None))


def _decide_float(w: Array, form: Form, values: ValueType, why_fp32: str) -> Decision:
    sizes = {}
    for encoding in candidates(w, values):
        turned = _oriented(w, form if operator_for(encoding, form) else None)
        if (n := encoding.encoded_bytes(turned, values=values)) is not None:
            sizes[encoding] = n
    stored, n_bytes = None, w.nbytes
    best = _smallest({e: n for e, n in sizes.items() if not e.must_save_its_definition})
    if best is not None and sizes[best] + NODE_BYTES < w.nbytes:
        stored, n_bytes = StoredWeight.of(w, best, form, values), sizes[best]
    why_dense = "" if stored else f"{_zeros(w)} zeros, dense is no larger"
    other = _smallest({e: n for e, n in sizes.items() if e.must_save_its_definition})
    saved = 0 if other is None else n_bytes - NODE_BYTES - sizes[other]
    alternative = None
    if other is not None and saved > 0:
        alternative = StoredWeight.of(w, other, form, values)
    return Decision(stored, why_dense, why_fp32, alternative, max(0, saved))


def _smallest(sizes: dict[type[PackedEncoding], int]) -> type[PackedEncoding] | None:
    return min(sizes, key=sizes.__getitem__, default=None)


def _oriented(w: Array, form: Form) -> Array:
    """The weight as a reader of that form holds it."""
    return np.ascontiguousarray(w.T) if form == GEMM_TRANSPOSED else w


def _zeros(w: Array) -> str:
    return f"{1 - np.count_nonzero(w) / max(1, w.size):.1%}"
