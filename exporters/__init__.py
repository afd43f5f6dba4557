"""The formats in which a pruned network can be written: one module each, with the same interface.

`DEFAULT_NAME` is the name of the file beside the checkpoint.
`export(dense, metadata, path, *, note) → path` writes the graph; it calls `note` with each line
that the user should read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

from fggp_deploy.errors import UnknownName

# Names only: importing a format imports onnx, which would make --help slow.
FORMATS: dict[str, str] = {
    "onnx": "onnx",
    "onnx-dense": "onnx_dense",
    "onnx-sparse": "onnx_sparse",
    "csr": "csr",
}
STATE_DICT = "state-dict"  # for torch code: weights without a graph, see state_dict.py

Note = Callable[[str], None]  # called with one line for the user


def silent(line: str) -> None:
    """A `Note` that ignores its line."""


def load(name: str) -> ModuleType:
    """The module that writes a graph in a format. Raises UnknownName."""
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)
    return importlib.import_module(f".{FORMATS[name]}", __name__)
