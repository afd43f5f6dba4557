"""The operator sets that a model imports; the version of the standard one, and raising it."""

from __future__ import annotations

from collections.abc import Collection

import onnx.version_converter
from onnx import ModelProto

from fggp_deploy.common.confined import GRAPH_PASS, confined
from fggp_deploy.errors import ModelFileError, shortened
from fggp_deploy.graph.nodes import STANDARD_DOMAINS, attributes, set_attribute_

# The first version in which a Resize says how it maps coordinates; before, it was asymmetric.
_RESIZE_WITH_COORDINATES = 11


def standard_opset(model: ModelProto) -> int:
    """Version of the standard operator set that a model imports; 0 when it imports none."""
    return max((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), default=0)


def drop_opsets_(model: ModelProto, domains: Collection[str]) -> None:
    """Let a model no longer import the operator sets of these domains."""
    for i in reversed(range(len(model.opset_import))):
        if model.opset_import[i].domain in domains:
            del model.opset_import[i]


def with_opset(model: ModelProto, minimum: int, *, name: str = "the model") -> ModelProto:
    """The same network in opset `minimum`, or the model itself if it is as new.

    Raises ModelFileError if ONNX's version converter cannot convert it.
    """
    opset = standard_opset(model)
    if opset >= minimum:
        return model

    def work() -> bytes:  # in a child process, since it can crash
        content: bytes = onnx.version_converter.convert_version(model, minimum).SerializeToString()
        return content

    try:
        converted = ModelProto.FromString(
            confined(work, what="ONNX opset conversion", limits=GRAPH_PASS)
        )
    except Exception as e:  # the converter's exceptions have no common base
        detail = shortened((str(e).strip().splitlines() or [type(e).__name__])[0], 160)
        raise ModelFileError(
            f"{name} cannot be raised from opset {opset} to {minimum} ({detail}); export it again "
            f"with opset {minimum}"
        ) from e
    if opset < _RESIZE_WITH_COORDINATES:
        _state_coordinates_(converted)
    return converted


def _state_coordinates_(model: ModelProto) -> None:
    """Write the old default of each Resize, because the converter does not do so."""
    for node in model.graph.node:
        given = attributes(node)
        if node.op_type != "Resize" or "coordinate_transformation_mode" in given:
            continue
        set_attribute_(node, "coordinate_transformation_mode", "asymmetric")
        if given.get("mode", b"nearest") == b"nearest":
            set_attribute_(node, "nearest_mode", "floor")
