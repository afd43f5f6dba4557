"""Formats that a pruned network can be written in, one a file; each module has the same face.

`DEFAULT_NAME`, the file beside the checkpoint, and `export(dense, metadata, path, *, note) → path`,
where `note` hears what the user should know.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fggp_deploy.errors import ConfigError, UnknownName

# By name only: importing a format costs the time of importing onnx, which --help cannot spare.
FORMATS: dict[str, str] = {
    "onnx": "onnx",
    "onnx-dense": "onnx_dense",
    "onnx-sparse": "onnx_sparse",
    "csr": "csr",
}
STATE_DICT = "state-dict"  # for torch code, so no format of a graph; see state_dict
VALUES = ("fp32", "fp16", "int8")
ACTIVATIONS = ("fp32", "int8")

Note = Callable[[str], None]  # takes one line for the user


def silent(line: str) -> None:
    """A `Note` that nobody reads."""


def exporter_options(
    format: str, *, flat: bool = False, values: str = "fp32", activations: str = "fp32"
) -> dict[str, Any]:
    """What a format's `export` is to be told; imports nothing heavy.

    Raises UnknownName for a choice that there is not, ConfigError for one that the format lacks.
    """
    for kind, name, known in (
        ("format", format, (*FORMATS, STATE_DICT)),
        ("type of values", values, VALUES),
        ("type of activations", activations, ACTIVATIONS),
    ):
        if name not in known:
            raise UnknownName(kind, name, known)
    if activations == "int8":
        if format != "onnx":
            raise ConfigError(f"--activations belongs to --format onnx, not {format}")
        if values == "fp16":
            raise ConfigError("--activations int8 wants --values int8, which it implies")
        values = "int8"
    options: dict[str, Any] = {"flat": True} if flat else {}
    if values != "fp32":
        options["values"] = values
    if options and format != "onnx":
        given = " and ".join(f"--{name}" for name in options)
        raise ConfigError(f"{given} belongs to --format onnx, not {format}")
    return options


def load(name: str) -> ModuleType:
    """The module that writes a graph in a format. Raises UnknownName."""
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)
    return importlib.import_module(f".{FORMATS[name]}", __name__)
