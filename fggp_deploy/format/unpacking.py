"""Turns a packed model (with functions, flat or compiled) into a standard graph and its weights.

The file is not trusted: our own code reads every tensor and checks every shape and index. Anything
that does not fit raises ModelFileError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.compiled import expand
from fggp_deploy.format.encodings import PackedEncoding
from fggp_deploy.format.encodings.base import Encoding, check_expansion
from fggp_deploy.format.encodings.checks import Array, checked_size
from fggp_deploy.format.encodings.coo import Coo
from fggp_deploy.format.functions import CONV_ATTRIBUTES, DOMAIN, operators, reject_foreign
from fggp_deploy.format.inlined import find_decoders
from fggp_deploy.graph.constants import initializers, overridable, unlist_initializers_
from fggp_deploy.graph.nodes import attribute_protos, integers
from fggp_deploy.graph.opset import drop_opsets_
from fggp_deploy.graph.reading import check_functions, reading
from fggp_deploy.graph.shapes import Shapes, infer_shapes
from fggp_deploy.graph.tensors import tensor_array
from fggp_deploy.graph.view import GraphView


@dataclass(frozen=True)
class Unpacked:
    """A graph of standard operators whose sparse weights are graph inputs, and those weights.

    Raises ModelFileError for weights that decode to more than a file of this size can need.
    """

    graph: ModelProto
    weights: dict[str, Encoding]

    def __post_init__(self) -> None:
        check_expansion(self.weights.values())

    def dense(self) -> ModelProto:
        """The ordinary dense-with-zeros model. Raises ModelFileError past protobuf's 2 GiB."""
        model = ModelProto()
        model.CopyFrom(self.graph)
        kept = [v for v in model.graph.input if v.name not in self.weights]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        for name, packed in self.weights.items():
            tensor = onnx.numpy_helper.from_array(packed.decode(), name)
            model.graph.initializer.append(tensor)
        return model


def unpack(model: ModelProto) -> ModelProto:
    """The dense-with-zeros model in standard operators, decoded by numpy.

    Requires what `pack` or `flatten` made, or any model without `ai.fggp` operators. The latter is
    returned as it is, except that initializers that IR version 3 lists as inputs are constants
    only. Raises ModelFileError for anything that breaks the format.
    """
    return split(model).dense()


def split(model: ModelProto) -> Unpacked:
    """The same, with the sparse weights still packed and apart from the graph."""
    with reading("the model"):
        check_functions(model)
        onnx.checker.check_model(model)
        model = _listing_only_inputs(expand(model))
        reject_foreign(model)
        out = _Splitter(model).run()
        restore_gemms(out.graph.graph, infer_shapes(out.graph), out.weights)
        name_layers(out.graph.graph, out.weights)
        return out


def _listing_only_inputs(model: ModelProto) -> ModelProto:
    """The model without the constants that IR version 3 lists as inputs; raises ModelFileError."""
    out = _copy(model)
    unlist_initializers_(out)
    given = {v.name for v in out.graph.input}
    for sparse in out.graph.sparse_initializer:
        if sparse.values.name in given:
            raise ModelFileError(
                f"sparse initializer {sparse.values.name!r} is a graph input too; store it as an "
                "ordinary initializer, or take it off the inputs"
            )
    return out


def restore_gemms(graph: GraphProto, shapes: Shapes, weights: dict[str, Encoding]) -> None:
    """Turn X·Wᵀ + B of a packed W into one Gemm again if X is known to be a matrix."""
    view = GraphView(graph)
    made_by = view.producers
    gone: set[str] = set()
    for add in graph.node:
        matmul = made_by.get(add.input[0]) if add.op_type == "Add" else None
        if matmul is None or matmul.op_type != "MatMul" or not view.only_reader(matmul.output[0]):
            continue
        transpose = made_by.get(matmul.input[1])
        if transpose is None or transpose.op_type != "Transpose":
            continue
        weight = weights.get(transpose.input[0])
        if weight is None or len(weight.shape) != 2 or len(shapes.get(matmul.input[0], ())) != 2:
            continue
        if shapes.get(add.input[1]) != weight.shape[:1]:
            continue
        inputs = [matmul.input[0], transpose.input[0], add.input[1]]
        gone.add(matmul.output[0])
        if view.only_reader(transpose.output[0]):
            gone.add(transpose.output[0])
        add.CopyFrom(helper.make_node("Gemm", inputs, add.output, name=add.name, transB=1))
    kept = [_copy(n) for n in graph.node if gone.isdisjoint(n.output)]
    del graph.node[:]
    graph.node.extend(kept)


def name_layers(graph: GraphProto, weights: dict[str, Encoding]) -> None:
    """Give nameless nodes their layer's name; of nodes that share a weight, only the first."""
    taken = {node.name for node in graph.node}
    for node in graph.node:
        weight = node.input[1] if len(node.input) > 1 else ""
        if not node.name and weight in weights and layer_name(weight) not in taken:
            node.name = layer_name(weight)
            taken.add(node.name)


class _Splitter:
    """One reading of one model."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.tensors = initializers(model.graph)
        if len(self.tensors) < len(model.graph.initializer):
            raise ModelFileError("two initializers have the same name")
        self.overridable = overridable(model.graph)
        self.weights: dict[str, Encoding] = {}
        self.sources: dict[str, object] = {}
        self.parts: set[str] = set()

    def run(self) -> Unpacked:
        """Both forms at once: functions are replaced, inlined decoders are found and removed."""
        out = _copy(self.model)
        graph = out.graph
        for sparse in graph.sparse_initializer:
            self._keep(sparse.values.name, Coo.from_tensor(sparse))
        inlined: dict[str, str] = {}  # tensor that a decoder makes → the weight it is
        inside: set[str] = set()
        for decoder in find_decoders(self.model):
            inlined[decoder.output] = self._weight(
                decoder.encoding, decoder.parts, decoder.attributes
            )
            inside |= decoder.inside
        nodes = []
        for node in graph.node:
            if not inside.isdisjoint(node.output):
                continue
            if node.domain == DOMAIN:
                nodes.extend(self._standard(node))
                continue
            for index, name in enumerate(node.input):
                if name in inlined:
                    node.input[index] = inlined[name]
            nodes.append(_copy(node))
        kept = [_copy(t) for t in graph.initializer if t.name not in self.parts]
        del graph.node[:], graph.initializer[:], graph.sparse_initializer[:], out.functions[:]
        out.functions.extend(f for f in self.model.functions if f.domain != DOMAIN)
        graph.node.extend(nodes)
        graph.initializer.extend(kept)
        for name, packed in self.weights.items():
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(packed.weight_type))
            value = helper.make_tensor_value_info(name, kind, packed.shape)
            graph.input.append(value)
        drop_opsets_(out, (DOMAIN,))
        return Unpacked(out, self.weights)

    def _standard(self, node: NodeProto) -> list[NodeProto]:
        operator = operators().get(node.op_type)
        if operator is None:
            raise ModelFileError(f"unknown operator {DOMAIN}::{node.op_type}")
        wanted, encoding = operator.inputs, operator.encoding
        if len(node.input) != len(wanted) or len(node.output) != 1 or not all(node.input):
            raise ModelFileError(f"{node.op_type} {node.name!r} must have inputs {wanted}")
        inputs = dict(zip(wanted, node.input, strict=True))
        weight = self._weight(
            encoding,
            {part: inputs[part] for part in encoding.parts},
            {name: integers(node, name) for name in ("weight_shape", *encoding.attributes)},
        )
        if operator.layer is None:
            if weight != node.output[0]:
                raise ModelFileError(
                    f"{node.op_type} {node.name!r} must compute the weight that its name states"
                )
            return []
        x, bias = inputs["X"], inputs["B"]
        if operator.layer == "Conv":
            conv = helper.make_node("Conv", [x, weight, bias], node.output, name=node.name)
            kernel = self.weights[weight].shape[2:]
            conv.attribute.append(helper.make_attribute("kernel_shape", kernel))
            attributes = attribute_protos(node)
            for key in CONV_ATTRIBUTES:
                if key not in attributes:
                    raise ModelFileError(f"{node.op_type} {node.name!r} lacks {key}")
                conv.attribute.append(attributes[key])
            return [conv]
        wt, product = f"{node.output[0]}.Wt", f"{node.output[0]}.XWt"
        return [
            helper.make_node("Transpose", [weight], [wt], perm=[1, 0]),
            helper.make_node("MatMul", [x, wt], [product]),
            helper.make_node("Add", [product, bias], node.output, name=node.name),
        ]

    def _weight(
        self,
        encoding: type[PackedEncoding],
        parts: Mapping[str, str],
        attributes: Mapping[str, tuple[int, ...]],
    ) -> str:
        """Read and check a weight once; returns its name, that of a part without the suffix.

        `parts`: the initializer of each part; `attributes`: those of an operator.
        """
        first = encoding.parts[0]
        name = parts[first].removesuffix(f".{first}")
        if any(stored != f"{name}.{part}" for part, stored in parts.items()):
            listed = " and ".join(map(repr, parts.values()))
            raise ModelFileError(f"{listed} are not the parts of a single weight")
        source = (encoding, attributes)
        if name in self.weights and self.sources.get(name) == source:
            return name
        own = dict(attributes)
        shape = own.pop("weight_shape")
        try:
            checked_size(shape)
            arrays = {part: self._array(stored) for part, stored in parts.items()}
            packed = encoding.from_parts(arrays, shape, own)
        except ModelFileError as e:
            raise ModelFileError(f"weight {name!r}: {e}") from e
        self._keep(name, packed)
        self.sources[name] = source
        self.parts |= set(parts.values())
        return name

    def _keep(self, name: str, packed: Encoding) -> None:
        if name in self.weights or name in self.tensors:
            raise ModelFileError(f"weight {name!r} is stored twice, or in two ways")
        self.weights[name] = packed

    def _array(self, name: str) -> Array:
        """An initializer's numbers; raises ModelFileError unless they fill its shape exactly."""
        if name not in self.tensors:
            raise ModelFileError(f"{name!r} is not an initializer of the file")
        if name in self.overridable:
            raise ModelFileError(f"{name!r} is part of a packed weight and a graph input too")
        return tensor_array(self.tensors[name])


def layer_name(weight: str) -> str:
    """`layer1.0.conv1` for `layer1.0.conv1.weight`."""
    return weight.removesuffix(".weight")


def _copy(message):  # type: ignore[no-untyped-def]
    """A copy of a protobuf message that stays valid when the list it came from is cleared."""
    out = type(message)()
    out.CopyFrom(message)
    return out
