"""Reads untrusted ONNX files. Whatever is wrong with one raises ModelFileError."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, NodeProto

from fggp_deploy.common.files import check_readable, contains
from fggp_deploy.errors import ModelFileError, shortened
from fggp_deploy.graph.external_data import DATA_FILE, MAX_BYTES, embed_
from fggp_deploy.graph.nodes import subgraphs
from fggp_deploy.graph.tensors import all_tensors

MAX_NODES = 1 << 18  # nodes of a graph with its functions inlined
MAX_DEPTH = 64  # of functions that call functions


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn any exception of a library about a hostile file into one ModelFileError."""
    try:
        yield
    except ModelFileError:
        raise
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        DecodeError,
        EncodeError,
        UnicodeDecodeError,
        ValueError,
        TypeError,
        OverflowError,
        RuntimeError,
        MemoryError,
    ) as e:
        raise ModelFileError(
            f"{what} is not valid ONNX ({type(e).__name__}: {shortened(e, 200)})"
        ) from e


def check_functions(model: ModelProto) -> None:
    """Raise ModelFileError if the graph with its functions inlined has more than MAX_NODES nodes.

    Otherwise a few functions that each call the next one twice could expand to any size.
    """
    for name in (text for f in model.functions for text in (f.domain, f.name)):
        if not isinstance(name, str):  # protobuf returns names that are not UTF-8 as bytes
            raise ModelFileError(f"its function {name!r:.60} has a name that is not UTF-8 text")
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[NodeProto], depth: int = 0) -> int:
        if depth > MAX_DEPTH:
            raise ModelFileError(
                f"its functions call each other more than {MAX_DEPTH} deep, or in a circle"
            )
        total = 0
        for node in _nodes_of(nodes):
            key = (node.domain, node.op_type)
            if key in functions and key not in sizes:
                sizes[key] = count(functions[key].node, depth + 1)
            total += sizes.get(key, 1)
        return total

    total = count(model.graph.node)
    if total > MAX_NODES:
        raise ModelFileError(
            f"its functions unfold to {total:.1e} nodes; at most {MAX_NODES:,} are read"
        )


def in_one_piece(content: bytes, folder: Path) -> bytes:
    """The content of an ONNX file in `folder` with the tensors that it keeps in data files there.

    Raises ModelFileError; see `graph.external_data`.
    """
    if DATA_FILE not in content:
        return content
    with reading("it is truncated, corrupt or no ONNX file: it"):
        model = ModelProto.FromString(content)
        return model.SerializeToString() if embed_(model, all_tensors(model), folder) else content


def read_bytes(path: Path) -> bytes:
    """The content of an ONNX file in one piece, also if it keeps tensors in data files beside it.

    Raises ModelFileError.
    """
    if check_readable(path, ModelFileError) > MAX_BYTES:
        raise ModelFileError(
            f"{path} is larger than 2 GiB, the limit for an ONNX file without external data"
        )
    try:
        return in_one_piece(path.read_bytes(), path.parent)
    except ModelFileError as e:
        raise ModelFileError(f"{path}: {e}") from e


def stored_bytes(path: Path) -> int:
    """Size of an ONNX file, with what it keeps in data files beside it, in bytes."""
    return len(read_bytes(path)) if contains(path, DATA_FILE) else path.stat().st_size


def read_model(path: Path) -> ModelProto:
    """An ONNX file, with its data files, with at least one node; raises ModelFileError."""
    content = read_bytes(path)
    with reading(f"{path} is truncated, corrupt or no ONNX file: it"):
        model = onnx.load_model_from_string(content)
    if not model.graph.node:
        raise ModelFileError(f"{path} is truncated, corrupt or no ONNX file: it has no graph")
    try:
        check_functions(model)
    except ModelFileError as e:
        raise ModelFileError(f"{path}: {e}") from e
    return model


def _nodes_of(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _nodes_of(graph.node)
