"""Which initializers of a graph are constants: those that no caller can replace.

From IR version 4 on, an initializer that is also a graph input is a default value: whoever runs the
model may feed another one. So it is no constant, whatever it holds. IR version 3 lists every
initializer as a graph input, and ONNX Runtime lets nobody feed one: there all are constants.
"""

from __future__ import annotations

from onnx import GraphProto, ModelProto, TensorProto

FIRST_WITH_DEFAULTS = 4  # the IR version


def constants(graph: GraphProto) -> dict[str, TensorProto]:
    """The initializers that nothing can replace, by name.

    Requires a graph of IR version 4 or newer, or one that `unlist_initializers_` has seen.
    """
    given = {v.name for v in graph.input}
    return {t.name: t for t in graph.initializer if t.name not in given}


def replaceable(graph: GraphProto) -> set[str]:
    """Names of the initializers that are graph inputs too; requires what `constants` requires."""
    return {t.name for t in graph.initializer} & {v.name for v in graph.input}


def without_defaults(model: ModelProto) -> ModelProto:
    """The model without the values of inputs that a caller may replace; as it is if there are none.

    So that shape inference does not rely on them.
    """
    given = replaceable(model.graph)
    if not given:
        return model
    out = ModelProto()
    out.CopyFrom(model)
    del out.graph.initializer[:]
    out.graph.initializer.extend(t for t in model.graph.initializer if t.name not in given)
    return out


def unlist_initializers_(model: ModelProto) -> list[str]:
    """Take the initializers of a model of IR version 3 or older off its inputs; their names.

    The model is of IR version 4 then, and computes the same. A newer model stays as it is.
    """
    if model.ir_version >= FIRST_WITH_DEFAULTS:
        return []
    graph = model.graph
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    listed = [v.name for v in graph.input if v.name in stored]
    kept = [v for v in graph.input if v.name not in stored]
    del graph.input[:]
    graph.input.extend(kept)
    model.ir_version = FIRST_WITH_DEFAULTS
    return listed
