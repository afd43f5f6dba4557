"""Compiled files: regions as single nodes `ai.fggp::Region_0` …, and expanding them again.

The definition of a region holds the layers that it replaces. A runtime without the kernels inlines
it. Nothing here trusts the file.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.functions import DOMAIN, layer_operator
from fggp_deploy.graph.view import GraphView

N_REGIONS = "fggp.regions"  # metadata of a model with regions: how many there are
COMPILED = "fggp.compiled"  # metadata of a compiled file: the machine that it is for
ATTRIBUTES = ("program", "constants", "threads")
_NAME = re.compile(r"Region_\d{1,4}")


def is_region(definition: FunctionProto) -> bool:
    """Whether a model-local function is the definition of a region, by its name."""
    return definition.domain == DOMAIN and _NAME.fullmatch(definition.name) is not None


def is_compiled(model: ModelProto) -> bool:
    """Whether a model has regions."""
    return any(is_region(f) for f in model.functions)


def compiled_for(model: ModelProto) -> dict[str, Any] | None:
    """What a compiled file records about the machine that it is for; None if it records nothing."""
    for prop in model.metadata_props:
        if prop.key == COMPILED:
            try:
                value = json.loads(prop.value)
            except (ValueError, RecursionError):
                return None
            return value if isinstance(value, dict) else None
    return None


def expand(model: ModelProto) -> ModelProto:
    """The model with each region's layers in its place; a model without regions as it is.

    Each region must be used once and hold no other region, so that the graph cannot become larger
    than the file. Raises ModelFileError.
    """
    regions = {f.name: f for f in model.functions if is_region(f)}
    if not regions:
        return model
    used = Counter(n.op_type for n in model.graph.node if n.domain == DOMAIN)
    for name, definition in regions.items():
        if used[name] != 1:
            raise ModelFileError(
                f"region {name} is used {used[name]} times in the graph, but must be used once"
            )
        _check_definition(definition)
    out = ModelProto()
    out.CopyFrom(model)
    del out.graph.node[:], out.functions[:]
    taken = set(GraphView(model.graph).names)
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type in regions:
            out.graph.node.extend(_layers(node, regions[node.op_type], taken))
        else:
            out.graph.node.add().CopyFrom(node)
    out.functions.extend(f for f in model.functions if not is_region(f))
    del out.metadata_props[:]
    out.metadata_props.extend(p for p in model.metadata_props if p.key not in (N_REGIONS, COMPILED))
    return out


def _layers(call: NodeProto, definition: FunctionProto, taken: set[str]) -> Iterator[NodeProto]:
    """A definition's nodes with the names of the values that the calling node reads and makes."""
    if len(call.input) != len(definition.input) or len(call.output) != len(definition.output):
        raise ModelFileError(
            f"region {call.op_type} has a node with other inputs or outputs than its definition"
        )
    names = dict(zip(definition.input, call.input, strict=True))
    names |= dict(zip(definition.output, call.output, strict=True))
    names[""] = ""
    for node in definition.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        for made in node.output:
            if made not in names:
                own = made
                while own in taken:
                    own = f"{call.op_type}.{own}"
                taken.add(own)
                names[made] = own
        if not names.keys() >= {*node.input}:
            raise ModelFileError(f"region {call.op_type} reads a value that no node computes")
        copy.input[:] = [names[n] for n in node.input]
        copy.output[:] = [names[n] for n in node.output]
        yield copy


def _check_definition(definition: FunctionProto) -> None:
    if not set(definition.attribute) <= set(ATTRIBUTES) or definition.attribute_proto:
        raise ModelFileError(f"region {definition.name} has attributes that no region may have")
    for node in definition.node:
        if layer_operator(node) is None and node.domain not in ("", "ai.onnx"):
            raise ModelFileError(
                f"region {definition.name} holds {node.domain}::{node.op_type}; only "
                "standard operators and layers with packed weights are allowed"
            )
        if any(a.HasField("g") or a.graphs or a.ref_attr_name for a in node.attribute):
            raise ModelFileError(f"region {definition.name} holds a subgraph or a reference")
