"""Packing an ONNX graph: dense-with-zeros weights become `ai.fggp` operators, and back.

`pack`, `unpack` and `flatten` take a model and return a new one; none changes what the network
computes. Initializers keep the layers' names: `layer1.0.conv1.weight` becomes
`layer1.0.conv1.weight.values` and `layer1.0.conv1.weight.gaps` (or `.bits`; or `.free`, `.signs`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.format.encodings import MAX_ELEMENTS, Array, Bitmask, Gaps
from fggp_deploy.format.encodings.blocks import Blocks, choose_blocks
from fggp_deploy.format.encodings.rice import Rice
from fggp_deploy.format.functions import DOMAIN, MIN_OPSET, VERSION, function
from fggp_deploy.format.packing import NODE_BYTES, choose, to_int8, to_rice
from fggp_deploy.format.sparse_forms import (
    CONV,
    GEMM,
    GEMM_TRANSPOSED,
    bias_behind,
    sparse_form,
)
from fggp_deploy.format.unpacking import Unpacked, split, unpack
from fggp_deploy.graph.constants import constant_initializers, overridable
from fggp_deploy.graph.lifting import lift_weights
from fggp_deploy.graph.nodes import attributes, names_read_inside, subgraphs
from fggp_deploy.graph.opset import standard_opset, with_opset
from fggp_deploy.graph.view import Use

__all__ = ["DOMAIN", "Packing", "Unpacked", "flatten", "pack", "split", "unpack"]

LARGEST_FLOAT16 = 65504.0
REPLACEABLE = (
    "it is a graph input too, so a caller may feed another in its place (exporters: "
    "keep_initializers_as_inputs=False)"
)
ValueType = type[np.float32 | np.float16 | np.int8]


@dataclass(frozen=True)
class Packing:
    """A packed model, and what did not come out as asked, by the weight's name.

    `left_dense` says why a float or quantised tensor of two or more dimensions is as it was;
    `left_fp32` why its values are float32 although float16 or int8 was asked for.
    """

    model: ModelProto
    left_dense: dict[str, str]
    left_fp32: dict[str, str]

    @classmethod
    def beside_regions(cls, model: ModelProto) -> Packing:
        """The same for what regions leave in a compiled model: decoders alone, no sparse operator.

        Requires standard opset 18 or newer.
        """
        return _Packer(model, np.float32, decoders_only=True).run()

    @classmethod
    def of(cls, model: ModelProto, *, values: ValueType = np.float32) -> Packing:
        """Store each float weight in its smallest form; a model that would not shrink is copied.

        Conv (two spatial dimensions, explicit pads), Gemm (alpha = beta = 1) and MatMul with a
        constant matrix on the right become SparseConv and SparseGemm where gaps are smallest; any
        other use of a weight gets an Ungap in front of it, any weight whose bitmask is smallest an
        Unmask, and one whose small blocks share one magnitude an Unblock, where that is smallest.
        `values` float16 rounds the values, except of weights that it cannot hold. int8 rounds them
        to whole numbers with a scale for each output channel, in SparseConv8, SparseGemm8 and
        Unrice. An int8 weight (of a QDQ model) gets an UnriceInt8, bit for bit.
        Requires a model without `ai.fggp` operators; raises ModelFileError otherwise.
        """
        if any(n.domain == DOMAIN for n in model.graph.node):
            raise ModelFileError("the model is packed already; unpack it first")
        return _Packer(with_opset(model, MIN_OPSET), values).run()


def pack(model: ModelProto) -> ModelProto:
    """The model of `Packing.of`, with float32 values: bit for bit the same network."""
    return Packing.of(model).model


def flatten(model: ModelProto) -> ModelProto:
    """Inline every `ai.fggp` function, for tools that know no model-local functions."""
    flat = onnx.inliner.inline_local_functions(model)
    kept = [o for o in flat.opset_import if o.domain != DOMAIN]
    del flat.opset_import[:]
    flat.opset_import.extend(kept)
    return flat


@dataclass(frozen=True)
class _Plan:
    """How a weight is stored, and its name for the operators that take its users' place."""

    packed: Gaps | Bitmask | Blocks | Rice
    op: str  # SparseConv, SparseGemm, SparseConv8, SparseGemm8, or one of _DECODERS


class _Packer:
    """One packing of one model: what is decided for each weight, then each node rewritten."""

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
        self.uses: dict[str, list[Use]] = defaultdict(list)
        self.fixed = {v.name for v in self.graph.output} | set(names_read_inside(self.graph))
        for node in self.graph.node:
            for index, name in enumerate(node.input):
                self.uses[name].append(Use(node, index))
        self.taken = set(self.uses) | set(self.constants)
        self.taken |= {o for n in self.graph.node for o in n.output}
        self.in_blocks: dict[str, _Plan] = {}  # what blocks would store in fewer bytes
        self.saved_by_blocks = 0
        self.left_dense: dict[str, str] = {}
        self.left_fp32: dict[str, str] = {}
        self.zero_biases: dict[int, TensorProto] = {}
        self.fused: set[str] = set()  # outputs of MatMuls whose Add went into a SparseGemm

    def run(self) -> Packing:
        """The packed model, or a copy of the original where that is no larger."""
        _explain_inner(self.graph, self.left_dense)
        plans: dict[str, _Plan] = {}
        for tensor in self.graph.initializer:
            if len(tensor.dims) >= 2 and tensor.data_type in (*_FLOATS, TensorProto.INT8):
                plan = self._plan(tensor)
                if isinstance(plan, _Plan):
                    plans[tensor.name] = plan
                else:
                    self.left_dense[tensor.name] = plan
            elif len(tensor.dims) >= 2 and tensor.data_type in _QUANTISED:
                kind = TensorProto.DataType.Name(tensor.data_type).lower()
                self.left_dense[tensor.name] = (
                    f"it is {kind}, quantised; only float and int8 are packed"
                )
        if self.saved_by_blocks > function("Unblock").ByteSize():
            plans |= self.in_blocks
            self.left_dense = {n: w for n, w in self.left_dense.items() if n not in plans}
        out = ModelProto()
        out.CopyFrom(self.model)
        graph = out.graph
        del graph.node[:], graph.initializer[:]
        for name, plan in plans.items():
            if plan.op in _DECODERS:
                graph.node.append(_decoder_node(name, plan))
        rewritten = [self._rewrite(node, plans) for node in self.graph.node]
        graph.node.extend(n for n in rewritten if self.fused.isdisjoint(n.input))
        for tensor in self.graph.initializer:
            if tensor.name in plans:
                graph.initializer.extend(_tensors(tensor.name, plans[tensor.name].packed))
            else:
                graph.initializer.append(tensor)
        graph.initializer.extend(self.zero_biases.values())
        out.ir_version = max(out.ir_version, 8)  # the first with functions
        opset = standard_opset(out)
        known = {f.name for f in out.functions if f.domain == DOMAIN}
        ops = {p.op for p in plans.values()} - known
        out.functions.extend(function(op, opset) for op in sorted(ops))
        if all(o.domain != DOMAIN for o in out.opset_import):
            out.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
        if not plans or out.ByteSize() >= self.original.ByteSize():
            out.CopyFrom(self.original)
            why = "the file as a whole would be no smaller"
            self.left_dense = dict.fromkeys(plans, why) | self.left_dense
            self.left_fp32 = {}
        return Packing(out, self.left_dense, self.left_fp32)

    def _plan(self, tensor: TensorProto) -> _Plan | str:
        """How to store a float tensor of two or more dimensions, or why it stays as it is."""
        name = tensor.name
        if tensor.data_type not in (TensorProto.FLOAT, TensorProto.INT8):
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            return (
                f"it is {kind}; only float32 is packed, {_CURES.get(kind, 'convert it to float32')}"
            )
        if name in self.overridable:
            return REPLACEABLE
        if {f"{name}.{part}" for part in PARTS} & self.taken:
            return "the names of its parts are taken"
        w = numpy_helper.to_array(tensor)
        if w.size > MAX_ELEMENTS:
            return f"it has more than {MAX_ELEMENTS:,} elements"
        if any(use.node.domain == DOMAIN for use in self.uses[name]):
            return "a region reads it as it is"
        if tensor.data_type == TensorProto.INT8:  # of a QDQ model, kept to the bit
            return _plan_whole(w)
        forms = {sparse_form(use, w.shape, self.constants) for use in self.uses[name]}
        if self.decoders_only:
            forms = {None}
        form = forms.pop() if len(forms) == 1 and name not in self.fixed else None
        if self.values is np.int8 and (plan := self._plan_int8(name, w, form)) is not None:
            return plan
        values = self._float_type(name, w)
        packed = choose(np.ascontiguousarray(w.T) if form == GEMM_TRANSPOSED else w, values=values)
        stored = w.nbytes if packed is None else packed.stored_bytes
        blocks = choose_blocks(w, below=stored - NODE_BYTES, values=values)
        if blocks is not None:
            self.in_blocks[name] = _Plan(blocks, "Unblock")
            self.saved_by_blocks += stored - NODE_BYTES - blocks.stored_bytes
        if isinstance(packed, Gaps):
            return _Plan(packed, _OPERATORS[form])
        masked = choose(w, encodings=("bitmask",), values=values)  # the node's own orientation
        if packed is None or masked is None:
            zeros = 1 - np.count_nonzero(w) / max(1, w.size)
            return f"{zeros:.1%} zeros, dense is no larger"
        return _Plan(masked, "Unmask")

    def _plan_int8(self, name: str, w: np.ndarray, form: str | None) -> _Plan | str | None:
        """The same with int8 values; None where they cannot say what the weight says."""
        transposed = form == GEMM_TRANSPOSED
        try:
            packed = to_int8(w, axis=1 if transposed else 0) if w.size else None
        except ConfigError as e:
            self.left_fp32[name] = str(e)
            return None
        if packed is None or packed.stored_bytes + NODE_BYTES >= w.nbytes:
            return f"{w.size:,} elements, dense is no larger"
        if form is None or not isinstance(choose(w), Gaps):  # too dense for the kernels
            return _Plan(packed, "Unrice")
        if transposed:
            packed = to_int8(np.ascontiguousarray(w.T))
        return _Plan(packed, f"{_OPERATORS[form]}8")

    def _float_type(self, name: str, w: np.ndarray) -> type[np.float32 | np.float16]:
        largest = float(np.abs(w).max(initial=0))
        if self.values is np.float16 and not largest <= LARGEST_FLOAT16:
            self.left_fp32[name] = f"it holds {largest:.3g}, float16 ends at {LARGEST_FLOAT16:g}"
            return np.float32
        return np.float16 if self.values is np.float16 else np.float32

    def _rewrite(self, node: NodeProto, plans: dict[str, _Plan]) -> NodeProto:
        weight = node.input[1] if len(node.input) > 1 else ""
        plan = plans.get(weight)
        if plan is None or plan.op in _DECODERS:
            return node
        shape = plan.packed.shape
        output, bias = node.output[0], node.input[2] if len(node.input) > 2 else ""
        if node.op_type == "MatMul" and output not in self.fixed:
            add = bias_behind(node, shape[0], self.uses, self.constants)
            if add is not None:
                self.fused.add(output)
                bias = next(name for name in add.input if name != output)
                output = add.output[0]
        inputs = [node.input[0], *_names(weight, plan.packed), bias or self._zero_bias(shape[0])]
        out = helper.make_node(plan.op, inputs, [output], name=node.name, domain=DOMAIN)
        out.attribute.append(helper.make_attribute("weight_shape", shape))
        if plan.op.startswith(CONV):
            given = attributes(node)
            defaults = {"pads": [0] * 4, "strides": [1] * 2, "dilations": [1] * 2, "group": 1}
            for key, default in defaults.items():
                out.attribute.append(helper.make_attribute(key, given.get(key, default)))
        return out

    def _zero_bias(self, size: int) -> str:
        """The name of `size` zeros, one tensor for all layers of that width."""
        if size not in self.zero_biases:
            name = f"zeros.{size}"
            while name in self.taken:
                name += "_"
            self.taken.add(name)
            self.zero_biases[size] = numpy_helper.from_array(np.zeros(size, np.float32), name)
        return self.zero_biases[size].name


PARTS = ("values", "gaps", "bits", "free", "signs", "scales", "high", "low")
_DECODERS = ("Ungap", "Unmask", "Unblock", "Unrice", "UnriceInt8")
_OPERATORS = {CONV: CONV, GEMM: GEMM, GEMM_TRANSPOSED: GEMM, None: "Ungap"}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


_HALF = "export the network in float32 and pack with --values fp16, which stores the same bytes"
_CURES = {"float16": _HALF, "bfloat16": "export the network in float32"}
_QUANTISED = (TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)


def _plan_whole(w: np.ndarray) -> _Plan | str:
    packed = to_rice(w) if w.size else None
    if packed is None or packed.stored_bytes + NODE_BYTES >= w.nbytes:
        return f"{np.mean(w == 0):.1%} zeros, dense is no larger" if w.size else "it is empty"
    return _Plan(packed, "UnriceInt8")


def _explain_inner(graph: GraphProto, left_dense: dict[str, str]) -> None:
    """Weights of subgraphs (If, Loop) are left alone."""
    for node in graph.node:
        for inner in subgraphs(node):
            for tensor in inner.initializer:
                if len(tensor.dims) >= 2 and tensor.data_type in _FLOATS:
                    left_dense[tensor.name] = f"it belongs to a subgraph of {node.op_type}"
            _explain_inner(inner, left_dense)


def parts(packed: Gaps | Bitmask | Blocks | Rice) -> dict[str, Array]:
    """What is stored of a weight, by the ends of its initializers' names, in the operators' order.

    >>> list(parts(to_int8(np.eye(3, dtype=np.float32))))
    ['values', 'scales', 'high', 'low']
    """
    every = {p: getattr(packed, p, None) for p in PARTS}
    return {p: a for p, a in every.items() if a is not None}


def _names(weight: str, packed: Gaps | Bitmask | Blocks | Rice) -> list[str]:
    return [f"{weight}.{part}" for part in parts(packed)]


def _tensors(name: str, packed: Gaps | Bitmask | Blocks | Rice) -> list[TensorProto]:
    return [numpy_helper.from_array(a, f"{name}.{part}") for part, a in parts(packed).items()]


def _decoder_node(weight: str, plan: _Plan) -> NodeProto:
    node = helper.make_node(
        plan.op,
        _names(weight, plan.packed),
        [weight],
        name=f"{weight}.{plan.op.lower()}",
        domain=DOMAIN,
        weight_shape=plan.packed.shape,
    )
    if isinstance(plan.packed, Blocks):
        node.attribute.append(helper.make_attribute("block", plan.packed.block))
    return node
