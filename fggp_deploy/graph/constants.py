"""Which tensors of a graph are constants: those that no caller can replace.

From IR version 4 on, an initializer that is also a graph input is a default value: whoever runs the
model may feed another one. ONNX Runtime calls it overridable; it is not a constant. IR version 3
lists every initializer as a graph input, but ONNX Runtime does not let callers feed them, so all
are constants.
"""

from __future__ import annotations

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from fggp_deploy.graph.nodes import is_standard

FIRST_WITH_DEFAULTS = 4  # the IR version


def initializers(graph: GraphProto) -> dict[str, TensorProto]:
    """All initializers by name, those that a caller may replace too; of equal names the last."""
    return {t.name: t for t in graph.initializer}


def constant_initializers(graph: GraphProto) -> dict[str, TensorProto]:
    """The initializers that no caller can replace, by name.

    Requires a graph of IR version 4 or newer, or one that `unlist_initializers_` has seen.
    """
    given = {v.name for v in graph.input}
    return {name: t for name, t in initializers(graph).items() if name not in given}


def constant_value(node: NodeProto) -> TensorProto | None:
    """The tensor of a Constant node; None for other nodes, and other kinds of constants."""
    if node.op_type != "Constant" or not is_standard(node):
        return None
    tensors = (a.t for a in node.attribute if a.name == "value" and a.type == AttributeProto.TENSOR)
    return next(tensors, None)


def overridable(graph: GraphProto) -> set[str]:
    """Names of the initializers that a caller may replace.

    Requires what `constant_initializers` requires.
    """
    return initializers(graph).keys() & {v.name for v in graph.input}


def required_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """The inputs that a caller must feed: those that no initializer is the default of."""
    stored = initializers(graph)
    return [v for v in graph.input if v.name not in stored]


def without_defaults(model: ModelProto) -> ModelProto:
    """The model without the values of overridable inputs, so that shape inference ignores them.

    The model itself if there are none.
    """
    given = overridable(model.graph)
    if not given:
        return model
    out = ModelProto()
    out.CopyFrom(model)
    del out.graph.initializer[:]
    out.graph.initializer.extend(t for t in model.graph.initializer if t.name not in given)
    return out


def lift_constants_(graph: GraphProto) -> None:
    """Turn Constant nodes that hold tensors into initializers, except those of graph outputs."""
    outputs = {v.name for v in graph.output}
    for i in reversed(range(len(graph.node))):
        tensor = constant_value(graph.node[i])
        if tensor is None or graph.node[i].output[0] in outputs:
            continue
        lifted = graph.initializer.add()
        lifted.CopyFrom(tensor)
        lifted.name = graph.node[i].output[0]
        del graph.node[i]


def unlist_initializers_(model: ModelProto) -> list[str]:
    """Remove the initializers of a model of IR version 3 or older from its inputs.

    Returns their names. The model has IR version 4 afterwards and computes the same. A newer model
    stays as it is.
    """
    if model.ir_version >= FIRST_WITH_DEFAULTS:
        return []
    graph = model.graph
    stored = initializers(graph).keys() | {t.values.name for t in graph.sparse_initializer}
    listed = [v.name for v in graph.input if v.name in stored]
    kept = [v for v in graph.input if v.name not in stored]
    del graph.input[:]
    graph.input.extend(kept)
    model.ir_version = FIRST_WITH_DEFAULTS
    return listed
