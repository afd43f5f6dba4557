"""The metadata of a packed file: that of its source, and ours with a self-test."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from onnx import ModelProto

from fggp_deploy.data import Preprocessing
from fggp_deploy.errors import ConfigError
from fggp_deploy.format.metadata import PREFIX, Metadata
from fggp_deploy.format.self_test import KEY, SelfTest

from .options import PackOptions
from .parity import Parity

PACKED = f"{PREFIX}packed"  # metadata: what a file was packed from


def classifier_metadata(model: ModelProto, parity: Parity, options: PackOptions) -> Metadata | None:
    """The metadata of a classifier of images; None if its preprocessing is not known.

    Raises ConfigError for options that do not fit the network or what its file says.
    """
    if options.mean is None or options.std is None:
        return None
    if _describes_itself(model):
        raise ConfigError("the file records how its images are prepared; omit --mean")
    outputs = list((parity.outputs or {}).values())
    if len(parity.inputs) != 1 or len(outputs) != 1 or outputs[0].ndim != 2:
        raise ConfigError(
            "--mean and --std are for a network of one image input and one output "
            f"[batch, classes]{'; ' + parity.why_not if parity.why_not else ''}"
        )
    (image,) = parity.inputs
    if len(image.shape) != 4 or image.dtype != "float32" or len(options.mean) != image.shape[1]:
        raise ConfigError(
            f"--mean has {len(options.mean)} entries, but the input {image.name!r} is "
            f"{image.dtype} {list(image.shape)}; it must be [batch, channels, height, width] with "
            "one channel per entry"
        )
    value = next(v for v in model.graph.input if v.name == image.name)
    if not all(d.dim_value > 0 for d in value.type.tensor_type.shape.dim[1:]):
        raise ConfigError(
            "--mean and --std are for images of one size, and the network takes any; fix its size "
            "when it is exported"
        )
    n = outputs[0].shape[1]
    if options.classes is not None and len(options.classes) != n:
        raise ConfigError(f"--classes names {len(options.classes)} classes, the network has {n}")
    return Metadata(
        Preprocessing(image.shape[2], image.shape[3], options.mean, options.std),
        options.classes or tuple(map(str, range(n))),
    )


def _describes_itself(model: ModelProto) -> bool:
    """Whether a file has the metadata of this package."""
    return any(p.key == f"{PREFIX}format_version" for p in model.metadata_props)


def properties_of(
    source: ModelProto, metadata: Metadata | None, parity: Parity, provenance: dict[str, Any]
) -> dict[str, str]:
    """The source's metadata properties, and ours with a self-test."""
    properties = {p.key: p.value for p in source.metadata_props}
    if _describes_itself(source):
        return properties
    if metadata is not None:
        assert parity.outputs is not None  # classifier_metadata has checked them
        (logits,) = parity.outputs.values()
        test = SelfTest.of_logits(0, logits, metadata.images.input_shape)
        properties |= replace(metadata, selftest=test, provenance={"pack": provenance}).to_props()
    elif parity.test is not None:
        properties[KEY] = json.dumps(parity.test.to_dict())
    properties[PACKED] = json.dumps(provenance, sort_keys=True)
    return properties
