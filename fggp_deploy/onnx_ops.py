"""Packing an ONNX graph: dense-with-zeros weights become `ai.fggp` operators, and back.

`pack`, `unpack` and `flatten` take a model and return a new one; none changes what the network
computes. Initializers keep the layers' names: `layer1.0.conv1.weight` becomes
`layer1.0.conv1.weight.values` and `layer1.0.conv1.weight.gaps` (or `.bits`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx.inliner
import onnx.version_converter
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.onnx_functions import DOMAIN, MIN_OPSET, VERSION, function
from fggp_deploy.onnx_unpacking import Unpacked, split, unpack
from fggp_deploy.packing import ENCODINGS, Bitmask, Gaps, choose, to_bitmask

__all__ = ["DOMAIN", "Unpacked", "flatten", "pack", "split", "standard_opset", "unpack"]


def pack(model: ModelProto) -> ModelProto:
    """Store each float weight in its smallest form; a model that would not shrink is only copied.

    Conv (two spatial dimensions, explicit pads), Gemm (transB = alpha = beta = 1) and MatMul with
    a constant right side become SparseConv and SparseGemm where gaps are smallest; any other use
    of a weight, and any weight whose bitmask is smallest, gets an Unmask in front of it.
    Requires a model without `ai.fggp` operators; raises ModelFileError otherwise.
    """
    if any(n.domain == DOMAIN for n in model.graph.node):
        raise ModelFileError("the model is packed already; unpack it first")
    if standard_opset(model) < MIN_OPSET:
        model = onnx.version_converter.convert_version(model, MIN_OPSET)
    return _Packer(model).run()


def flatten(model: ModelProto) -> ModelProto:
    """Inline every `ai.fggp` function, for tools that know no model-local functions."""
    flat = onnx.inliner.inline_local_functions(model)
    kept = [o for o in flat.opset_import if o.domain != DOMAIN]
    del flat.opset_import[:]
    flat.opset_import.extend(kept)
    return flat


def standard_opset(model: ModelProto) -> int:
    """Version of the standard operator set that a model imports; 0 when it imports none."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


@dataclass(frozen=True)
class _Use:
    node: NodeProto
    index: int


@dataclass(frozen=True)
class _Plan:
    """How a weight is stored; `op` is the operator that takes the place of each of its users."""

    packed: Gaps | Bitmask
    op: str


class _Packer:
    """One packing of one model: what is decided for each weight, then each node rewritten."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.constants = {t.name: t for t in self.graph.initializer}
        for value in self.graph.input:  # an initializer that is also an input may be overridden
            self.constants.pop(value.name, None)
        self.uses: dict[str, list[_Use]] = defaultdict(list)
        self.captured = {v.name for v in self.graph.output}
        for node in self.graph.node:
            for index, name in enumerate(node.input):
                self.uses[name].append(_Use(node, index))
            for inner in _subgraphs(node):
                self.captured |= set(_names_read(inner))
        self.taken = set(self.uses) | set(self.constants)
        self.taken |= {o for n in self.graph.node for o in n.output}
        self.zero_biases: dict[int, TensorProto] = {}

    def run(self) -> ModelProto:
        """The packed model, or a copy of the original where that is no larger."""
        plans = {t.name: p for t in self.constants.values() if (p := self._plan(t))}
        out = ModelProto()
        out.CopyFrom(self.model)
        if not plans:
            return out
        graph = out.graph
        del graph.node[:], graph.initializer[:]
        for name, plan in plans.items():
            if plan.op == "Unmask":
                graph.node.append(_unmask_node(name, plan.packed.shape))
        graph.node.extend(self._rewrite(node, plans) for node in self.graph.node)
        for tensor in self.graph.initializer:
            if tensor.name in plans:
                graph.initializer.extend(_tensors(tensor.name, plans[tensor.name].packed))
            else:
                graph.initializer.append(tensor)
        graph.initializer.extend(self.zero_biases.values())
        out.ir_version = max(out.ir_version, 8)  # the first with functions
        opset = standard_opset(out)
        out.functions.extend(function(op, opset) for op in sorted({p.op for p in plans.values()}))
        out.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
        if out.ByteSize() >= self.model.ByteSize():
            out.CopyFrom(self.model)
        return out

    def _plan(self, tensor: TensorProto) -> _Plan | None:
        name = tensor.name
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            return None
        if {f"{name}.{part}" for part in ("values", "gaps", "bits")} & self.taken:
            return None
        w = numpy_helper.to_array(tensor)
        kinds = {self._kind(use, w.shape) for use in self.uses[name]}
        kind = kinds.pop() if len(kinds) == 1 and name not in self.captured else None
        if kind is None:
            masked = choose(w, encodings=("bitmask",))
            return _Plan(masked, "Unmask") if masked else None
        packed = choose(w.T if kind == "MatMul" else w, encodings=ENCODINGS)
        if isinstance(packed, Bitmask):
            return _Plan(to_bitmask(w), "Unmask")
        op = "SparseConv" if kind == "Conv" else "SparseGemm"
        return _Plan(packed, op) if packed else None

    def _kind(self, use: _Use, shape: tuple[int, ...]) -> str | None:
        """The use's operator type when SparseConv or SparseGemm says exactly the same."""
        node, index = use.node, use.index
        if index != 1 or node.domain not in ("", "ai.onnx") or node.op_type not in _EXACT:
            return None
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        known, rank = _EXACT[node.op_type]
        if len(shape) != rank or not attributes.keys() <= known.keys():
            return None
        for key, wanted in known.items():
            if wanted is not None and attributes.get(key, wanted[0]) not in wanted[1:]:
                return None
        if node.op_type == "Conv" and tuple(attributes.get("kernel_shape", shape[2:])) != shape[2:]:
            return None
        if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
            bias = self.constants.get(node.input[2])
            if bias is None or tuple(bias.dims) != shape[:1]:
                return None
        return node.op_type

    def _rewrite(self, node: NodeProto, plans: dict[str, _Plan]) -> NodeProto:
        weight = node.input[1] if len(node.input) > 1 else ""
        plan = plans.get(weight)
        if plan is None or plan.op == "Unmask":
            return node
        shape = plan.packed.shape
        bias = node.input[2] if len(node.input) > 2 else ""
        inputs = [node.input[0], f"{weight}.values", f"{weight}.gaps"]
        inputs.append(bias or self._zero_bias(shape[0]))
        out = helper.make_node(plan.op, inputs, node.output, name=node.name, domain=DOMAIN)
        out.attribute.append(helper.make_attribute("weight_shape", shape))
        if plan.op == "SparseConv":
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
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


# For each operator the attributes it may have, as (default, allowed …) or None for any value, and
# the rank of its weight.
_EXACT: dict[str, tuple[dict[str, tuple[object, ...] | None], int]] = {
    "Conv": (
        {
            "auto_pad": (b"NOTSET", b"NOTSET", b""),
            "kernel_shape": None,
            **dict.fromkeys(("pads", "strides", "dilations", "group")),
        },
        4,
    ),
    "Gemm": ({"transA": (0, 0), "transB": (0, 1), "alpha": (1.0, 1.0), "beta": (1.0, 1.0)}, 2),
    "MatMul": ({}, 2),
}


def _tensors(name: str, packed: Gaps | Bitmask) -> list[TensorProto]:
    part, index = ("gaps", packed.gaps) if isinstance(packed, Gaps) else ("bits", packed.bits)
    return [
        numpy_helper.from_array(packed.values, f"{name}.values"),
        numpy_helper.from_array(index, f"{name}.{part}"),
    ]


def _unmask_node(weight: str, shape: tuple[int, ...]) -> NodeProto:
    return helper.make_node(
        "Unmask",
        [f"{weight}.values", f"{weight}.bits"],
        [weight],
        name=f"{weight}.unmask",
        domain=DOMAIN,
        weight_shape=shape,
    )


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _names_read(graph: GraphProto) -> Iterator[str]:
    yield from (v.name for v in graph.output)
    for node in graph.node:
        yield from node.input
        for inner in _subgraphs(node):
            yield from _names_read(inner)
