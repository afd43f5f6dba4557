"""Rewriting a graph so that each region is a single node, with its layers as a function body."""

from __future__ import annotations

from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.compiled import ATTRIBUTES, N_REGIONS
from fggp_deploy.format.encodings import of_kernel_format
from fggp_deploy.format.functions import CONV_ATTRIBUTES, DOMAIN, VERSION, function
from fggp_deploy.graph.constants import constant_initializers
from fggp_deploy.graph.nodes import names_inside, names_read_inside
from fggp_deploy.graph.opset import standard_opset
from fggp_deploy.kernels import program as p
from fggp_deploy.runtime.lowering.layer import LoweredLayer
from fggp_deploy.runtime.regions.programs import RegionProgram


def rewrite(model: ModelProto, built: list[RegionProgram], *, threads: int) -> ModelProto:
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
    opset = standard_opset(model)
    out.functions.extend(function(name, opset) for name in sorted(used))
    out.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    out.metadata_props.add(key=N_REGIONS, value=str(len(built)))
    out.ir_version = max(out.ir_version, 8)  # the first with functions
    return out


def _names_left(model: ModelProto, built: list[RegionProgram], replaced: set[str]) -> set[str]:
    """Names of values and initializers that stay in the graph beside its regions."""
    taken = {v.name for v in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        if id_of(node) not in replaced:
            taken |= {*node.input, *node.output, *names_inside(node)}
    for b in built:
        taken |= {*b.region.inputs, *b.region.outputs}
    return taken


def _constant_names(b: RegionProgram, taken: set[str]) -> list[str]:
    """Names for a region's constants, after the weights that they hold; adds them to `taken`."""
    names: list[str] = []
    for layer, steps in b.layers():
        if layer.weight is None:
            continue
        own = layer.learned is not None and layer.nodes[0].input[1]
        name = own or f"{b.name}.{layer.output}"
        ends = _suffixes(b.steps[steps][0])
        while not taken.isdisjoint(found := _parts(name, ends)):
            name += "_"
        taken |= set(found)
        names += found
    return names


def _suffixes(step: p.Step) -> tuple[str, ...]:
    """Suffixes of the constants of a weight: .values and so on; one empty suffix if it is dense."""
    encoding = of_kernel_format(step.format)
    return ("",) if encoding is None else tuple(f".{part}" for part in encoding.parts)


def _parts(name: str, ends: tuple[str, ...]) -> list[str]:
    """A weight's constants, as docs/format.md names them, and its bias."""
    return [*(name + end for end in ends), f"{name.removesuffix('.weight')}.bias"]


def id_of(node: NodeProto) -> str:
    """A node's first output identifies it: each value is made once."""
    return str(node.output[0])


def _sorted(nodes: list[NodeProto], model: ModelProto) -> list[NodeProto]:
    """The nodes in topological order: an output of a region may be read before its last layer."""
    made = {name for node in nodes for name in node.output}
    ready: set[str] = set()
    result: list[NodeProto] = []
    waiting = nodes
    while waiting:
        later = []
        for node in waiting:
            reads = (*node.input, *names_inside(node))
            if all(name in ready or name not in made for name in reads):
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
    read |= {v.name for v in out.graph.input}  # of an input it is the default
    read |= set(names_read_inside(out.graph))
    read -= {t.name for t in tensors}
    kept = [t for t in out.graph.initializer if t.name in read]
    del out.graph.node[:], out.graph.initializer[:], out.graph.value_info[:]
    out.graph.node.extend(nodes)
    out.graph.initializer.extend([*kept, *tensors])


def _node(b: RegionProgram, constants: list[str], threads: int) -> NodeProto:
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


def _function(b: RegionProgram, model: ModelProto) -> FunctionProto:
    """The region's layers in operators that every runtime can execute."""
    known = constant_initializers(model.graph)
    names = [f"constant_{i}" for i in range(len(b.constants))]
    body: list[NodeProto] = []
    embedded: set[str] = set()
    step = 0
    for layer in b.region.layers:
        if layer.weight is not None:
            body += _weighted(layer, b.steps[step], names)
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
        helper.make_opsetid("", standard_opset(model)),
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


def _weighted(layer: LoweredLayer, step: p.Step, names: list[str]) -> list[NodeProto]:
    first, encoding = step.constant, of_kernel_format(step.format)
    inputs = [layer.inputs[0], *names[first : first + len(_suffixes(step)) + 1]]
    outputs = [layer.nodes[layer.n_weighted - 1].output[0]]
    assert layer.weight is not None
    window: dict[str, Any] = {
        "pads": list(step.pads),
        "strides": list(step.strides),
        "dilations": list(step.dilations),
        "group": step.group,
    }
    if encoding is None:
        if step.op == p.GEMM:
            return _on_rows(*inputs, *outputs) if layer.on_rows else [_gemm(inputs, outputs)]
        return [helper.make_node("Conv", inputs, outputs, kernel_shape=list(step.kernel), **window)]
    assert set(window) == set(CONV_ATTRIBUTES)
    operators = encoding.operators
    name, more = (operators.gemm, {}) if step.op == p.GEMM else (operators.conv, window)
    assert name is not None  # kernels run layers of both kinds for every encoding that they read
    shape = list(layer.weight.shape)
    return [helper.make_node(name, inputs, outputs, domain=DOMAIN, weight_shape=shape, **more)]


def _gemm(inputs: list[str], outputs: list[str]) -> NodeProto:
    return helper.make_node("Gemm", inputs, outputs, transB=1)


def _on_rows(x: str, weight: str, bias: str, y: str) -> list[NodeProto]:
    """A Gemm with a transposed weight on a value of any rank."""
    return [
        helper.make_node("Transpose", [weight], [f"{y}.Wt"], perm=[1, 0]),
        helper.make_node("MatMul", [x, f"{y}.Wt"], [f"{y}.XWt"]),
        helper.make_node("Add", [f"{y}.XWt", bias], [y]),
    ]
