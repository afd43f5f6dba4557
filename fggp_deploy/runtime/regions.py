"""From a standard graph to one whose regions are single nodes, each with the chain as its body."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.kernels import program as p
from fggp_deploy.onnx_functions import CONV_ATTRIBUTES, DOMAIN, RICE_INPUTS, VERSION, function
from fggp_deploy.onnx_ops import parts
from fggp_deploy.onnx_regions import ATTRIBUTES
from fggp_deploy.packing import to_gaps, to_int8
from fggp_deploy.rice import Rice
from fggp_deploy.runtime.chains import Region, find_regions
from fggp_deploy.runtime.graph import Layer
from fggp_deploy.runtime.sessions import MARK

Array = npt.NDArray[Any]
MAX_REGIONS = 64
# Larger constants say nothing about shapes, and are kept from shape inference, which copies them.
SHAPE_CONSTANT = 1024
# Above this share of non-zeros, gaps are no smaller than the dense weight.
DENSE_ABOVE = 0.7


@dataclass
class BuiltRegion:
    """A region as the library takes it; `shapes` are its inputs' for one image, or None."""

    name: str
    region: Region
    steps: list[p.Step]
    constants: list[Array]
    outputs: list[int]
    shapes: list[list[int]] | None

    def program(self) -> p.Program:
        """The region in the library; raises ModelFileError where the library refuses it."""
        return p.Program(self.code(), self.constants)

    def code(self) -> list[int]:
        """The integers of its program."""
        return p.encode(self.steps, n_inputs=len(self.region.inputs), outputs=self.outputs)

    def layers(self) -> Iterator[tuple[Layer, slice]]:
        """Each layer and which of the steps are its own."""
        first = 0
        for layer in self.region.layers:
            yield layer, slice(first, first + len(layer.steps))
            first += len(layer.steps)

    def set_variants(self, chosen: dict[str, list[tuple[int, int]]]) -> None:
        """Take the variants of the layers that are named, by output, in `chosen`."""
        for layer, steps in self.layers():
            if layer.output in chosen:
                self.steps[steps] = [
                    dataclasses.replace(s, variant=v)
                    for s, v in zip(self.steps[steps], chosen[layer.output], strict=True)
                ]


Shapes = dict[str, list[int]]


def value_shapes(model: ModelProto) -> Shapes:
    """What is known of the shapes of float values but constants; 0 for an unknown dimension."""
    inferred = onnx.shape_inference.infer_shapes(_without_weights(model))
    known = [*inferred.graph.value_info, *model.graph.input, *inferred.graph.output]
    return {v.name: _shape(v) for v in known if _is_float(v)}


def _without_weights(model: ModelProto) -> ModelProto:
    """The model with its large constants as inputs, so that it is small."""
    graph = model.graph
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    light.graph.input.extend(graph.input)
    taken = {v.name for v in graph.input}
    for t in graph.initializer:
        if math.prod(t.dims) <= SHAPE_CONSTANT:
            light.graph.initializer.append(t)
        elif t.name not in taken:
            light.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    return light


def find(
    model: ModelProto, shapes: Shapes | None = None, *, without: Collection[str] = ()
) -> list[BuiltRegion]:
    """The regions of a model of standard operators that the library accepts.

    `shapes` is what `value_shapes` gives; layers whose output is in `without` are left alone.
    """
    shapes = value_shapes(model) if shapes is None else shapes
    built: list[BuiltRegion] = []
    for region in find_regions(model.graph, shapes, without=without)[:MAX_REGIONS]:
        candidate = _build(f"Region_{len(built)}", region, shapes)
        if candidate is not None:
            built.append(candidate)
    return built


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [max(0, d.dim_value) for d in value.type.tensor_type.shape.dim]


def _build(name: str, region: Region, shapes: dict[str, list[int]]) -> BuiltRegion | None:
    numbers = {value: i for i, value in enumerate(region.inputs)}
    steps: list[p.Step] = []
    constants: list[Array] = []
    for layer in region.layers:
        source = numbers[layer.inputs[0]]
        for fields in layer.steps:
            extra = dict(fields)
            if layer.weight is not None:
                extra |= {"constant": len(constants), "weights": p.DENSE}
                constants += _packed(layer, extra)
            if len(layer.inputs) > 1:
                extra["residual"] = numbers[layer.inputs[1]]
            steps.append(p.Step(input=source, **extra))
            source = len(region.inputs) + len(steps) - 1
        numbers[layer.output] = source
    static = [shapes.get(i, [])[1:] for i in region.inputs]
    built = BuiltRegion(
        name,
        region,
        steps,
        constants,
        [numbers[o] for o in region.outputs],
        static if all(s and all(s) for s in static) else None,
    )
    try:  # what the library refuses stays as it is
        built.program()
    except ModelFileError:
        return None
    return built


def _packed(layer: Layer, fields: dict[str, Any]) -> list[Array]:
    weight, bias = layer.weight, layer.bias
    assert weight is not None and bias is not None  # noqa: PT018 - both or neither, by _match
    if layer.learned is not None and (whole := _as_int8(weight)) is not None:
        fields["weights"] = p.RICE
        return [*parts(whole).values(), bias]
    if np.count_nonzero(weight) > DENSE_ABOVE * weight.size:
        return [weight, bias]
    fields["weights"] = p.GAPS
    gaps = to_gaps(weight, np.uint8)
    if len(gaps.values) > 1.2 * np.count_nonzero(weight):
        gaps = to_gaps(weight, np.uint16)
    return [gaps.values, gaps.gaps, bias]


def _as_int8(weight: Array) -> Rice | None:
    """A weight with int8 values where those say exactly the same, as after --values int8."""
    for part in (weight[:1], weight):  # nearly all others show it in their first channel
        try:
            whole = to_int8(part)
        except ConfigError:
            return None
        if not np.array_equal(whole.decode(), part):
            return None
    return whole


def rewrite(model: ModelProto, built: list[BuiltRegion], *, threads: int) -> ModelProto:
    """The model with each region as one node; valid on a stock runtime too."""
    out = ModelProto()
    out.CopyFrom(model)
    replaced = {id_of(n) for b in built for layer in b.region.layers for n in layer.nodes}
    ends = {b.region.layers[-1].nodes[-1].output[0]: b for b in built}
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    taken = _names_left(model, built, replaced)
    for node in model.graph.node:
        if id_of(node) not in replaced:
            nodes.append(node)
        if node.output[0] in ends:
            region = ends[node.output[0]]
            names = _constant_names(region, taken)
            tensors += [
                numpy_helper.from_array(a, n) for a, n in zip(region.constants, names, strict=True)
            ]
            nodes.append(_node(region, names, threads))
    _put(out, _sorted(nodes, model), tensors)
    out.functions.extend(_function(b, model) for b in built)
    used = {n.op_type for f in out.functions for n in f.node if n.domain == DOMAIN}
    opset = _standard(model)
    out.functions.extend(function(name, opset) for name in sorted(used))
    out.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    out.metadata_props.add(key=MARK, value=str(len(built)))
    out.ir_version = max(out.ir_version, 8)  # the first with functions
    return out


def _names_left(model: ModelProto, built: list[BuiltRegion], replaced: set[str]) -> set[str]:
    """Names of values and initializers that stay in the graph beside its regions."""
    taken = {v.name for v in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        if id_of(node) not in replaced:
            taken |= {*node.input, *node.output}
    for b in built:
        taken |= {*b.region.inputs, *b.region.outputs}
    return taken


def _constant_names(b: BuiltRegion, taken: set[str]) -> list[str]:
    """Names for a region's constants, after the weights that they hold; `taken` grows by them."""
    names: list[str] = []
    for layer, steps in b.layers():
        if layer.weight is None:
            continue
        own = layer.learned is not None and layer.nodes[0].input[1]
        name = own or f"{b.name}.{layer.output}"
        ends = _PARTS[b.steps[steps][0].weights]
        while not taken.isdisjoint(found := _parts(name, ends)):
            name += "_"
        taken |= set(found)
        names += found
    return names


def _parts(name: str, ends: tuple[str, ...]) -> list[str]:
    """A weight's constants, as docs/format.md names them, and its bias."""
    return [*(name + end for end in ends), f"{name.removesuffix('.weight')}.bias"]


# The ends of the names of a weight's constants, by how a program has it.
_PARTS = {
    p.DENSE: ("",),
    p.GAPS: (".values", ".gaps"),
    p.RICE: tuple(f".{part}" for part in RICE_INPUTS),
}


def id_of(node: NodeProto) -> str:
    """A node's first output names it: a value is made once."""
    return str(node.output[0])


def _standard(model: ModelProto) -> int:
    return max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))


def _sorted(nodes: list[NodeProto], model: ModelProto) -> list[NodeProto]:
    """Topological order: a region stands where its last layer stood, but an output may be early."""
    made = {name for node in nodes for name in node.output}
    ready: set[str] = set()
    result: list[NodeProto] = []
    waiting = nodes
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready or name not in made for name in node.input):
                result.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ModelFileError("the graph is not topologically sortable")
        waiting = later
    return result


def _put(out: ModelProto, nodes: list[NodeProto], tensors: list[TensorProto]) -> None:
    read = {name for node in nodes for name in node.input} | {v.name for v in out.graph.output}
    read -= {t.name for t in tensors}
    kept = [t for t in out.graph.initializer if t.name in read]
    del out.graph.node[:], out.graph.initializer[:], out.graph.value_info[:]
    out.graph.node.extend(nodes)
    out.graph.initializer.extend([*kept, *tensors])


def _node(b: BuiltRegion, constants: list[str], threads: int) -> NodeProto:
    return helper.make_node(
        b.name,
        [*b.region.inputs, *constants],
        b.region.outputs,
        name=b.name,
        domain=DOMAIN,
        program=b.code(),
        constants=len(constants),
        threads=threads,
    )


def _function(b: BuiltRegion, model: ModelProto) -> FunctionProto:
    """The chain in operators that every runtime can execute, SparseConv as a nested function."""
    known = {t.name: t for t in model.graph.initializer}
    names = [f"constant_{i}" for i in range(len(b.constants))]
    body: list[NodeProto] = []
    embedded: set[str] = set()
    step = 0
    for layer in b.region.layers:
        if layer.weight is not None:
            body.append(_weighted(layer, b.steps[step], names))
        for node in layer.nodes[layer.n_weighted :]:
            copy = NodeProto()
            copy.CopyFrom(node)
            for name in node.input:
                if name in known and name not in embedded:
                    embedded.add(name)
                    body.append(helper.make_node("Constant", [], [name], value=known[name]))
            body.append(copy)
        step += len(layer.steps)
    imports = [
        helper.make_opsetid("", _standard(model)),
        helper.make_opsetid(DOMAIN, VERSION),
    ]
    return helper.make_function(
        DOMAIN,
        b.name,
        [*b.region.inputs, *names],
        b.region.outputs,
        body,
        imports,
        attributes=list(ATTRIBUTES),
    )


def _weighted(layer: Layer, step: p.Step, names: list[str]) -> NodeProto:
    first, sparse = step.constant, step.weights != p.DENSE
    inputs = [layer.inputs[0], *names[first : first + len(_PARTS[step.weights]) + 1]]
    end = "8" if step.weights == p.RICE else ""
    outputs = [layer.nodes[layer.n_weighted - 1].output[0]]
    assert layer.weight is not None
    window: dict[str, Any] = {
        "pads": list(step.pads),
        "strides": list(step.strides),
        "dilations": list(step.dilations),
        "group": step.group,
    }
    if not sparse:
        if step.op == p.GEMM:
            return helper.make_node("Gemm", inputs, outputs, transB=1)
        return helper.make_node("Conv", inputs, outputs, kernel_shape=list(step.kernel), **window)
    shape = list(layer.weight.shape)
    if step.op == p.GEMM:
        return helper.make_node(
            f"SparseGemm{end}", inputs, outputs, domain=DOMAIN, weight_shape=shape
        )
    assert set(window) == set(CONV_ATTRIBUTES)
    return helper.make_node(
        f"SparseConv{end}", inputs, outputs, domain=DOMAIN, weight_shape=shape, **window
    )
