"""Formats that a pruned network can be written in, one a file; each module has the same face.

`DEFAULT_NAME`, the file beside the checkpoint, and `export(dense, metadata, path, *, note) → path`,
where `note` hears what the user should know.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

from fggp_deploy.errors import UnknownName

# By name only: importing a format costs the time of importing onnx, which --help cannot spare.
FORMATS: dict[str, str] = {
    "onnx": "onnx",
    "onnx-dense": "onnx_dense",
    "onnx-sparse": "onnx_sparse",
    "csr": "csr",
}

Note = Callable[[str], None]  # takes one line for the user


def silent(line: str) -> None:
    """A `Note` that nobody reads."""


def load(name: str) -> ModuleType:
    """The module that writes a format. Raises UnknownName."""
    if name not in FORMATS:
        raise UnknownName("format", name, (*FORMATS, "state-dict"))
    return importlib.import_module(f".{FORMATS[name]}", __name__)
