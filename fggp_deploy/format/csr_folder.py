"""Reading a `.csr` folder: a manifest, a graph, and one scipy .npz per sparse weight.

Nothing here trusts the folder. Every file is read once, up to a limit, and its hash is checked
before it is used. Names stay inside the folder. A zip may hold only what scipy writes, and no more
bytes than the manifest allows.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings.checks import Array, checked_size
from fggp_deploy.format.encodings.csr import Csr
from fggp_deploy.format.functions import reject_foreign
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.unpacking import Unpacked
from fggp_deploy.graph.reading import reading

FORMAT = "fggp-csr"
VERSION = 1
MANIFEST = "manifest.json"
GRAPH = "graph.onnx"
WEIGHT_FILE = re.compile(r"weights/[A-Za-z0-9_][A-Za-z0-9_.-]*\.npz")
MAX_BYTES = 2**31 - 1  # of the manifest or the graph; protobuf's own limit
# A weight's file may unpack to this, plus a multiple of its own size.
FREE_BYTES, MAX_INFLATION = 2**26, 64

_NPY_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype><f4|<i4|<i8|\|S\d{1,2})', 'fortran_order': False, "
    rb"'shape': \((?:(?P<length>\d{1,12}),)?\), \}\s*"
)
_MEMBERS = {"data.npy", "indices.npy", "indptr.npy", "shape.npy", "format.npy"}
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
    MemoryError,
)


def read(folder: Path) -> tuple[Metadata, Unpacked]:
    """The metadata, and the graph with its checked weights. Raises ModelFileError."""
    manifest = _manifest(folder)
    metadata = Metadata.from_props({k: json.dumps(v) for k, v in manifest["metadata"].items()})
    graph = _graph(_bytes(folder, GRAPH, manifest["graph"].get("sha256")))
    inputs = {v.name: v for v in graph.graph.input}
    weights = {}
    for name, entry in manifest["weights"].items():
        try:
            weights[name] = _weight(folder, entry)
            if name not in inputs or _fixed_shape(inputs[name]) != weights[name].shape:
                raise ModelFileError(f"{GRAPH} has no input of shape {weights[name].shape} for it")
        except ModelFileError as e:
            raise ModelFileError(f"weight {name!r}: {e}") from e
    return metadata, Unpacked(graph, dict(weights))


def _manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise ModelFileError(f"it is a folder without {MANIFEST}; a .csr folder has one")
    try:
        manifest = json.loads(_bytes(folder, MANIFEST, None))
    except (ValueError, RecursionError) as e:
        raise ModelFileError(f"{MANIFEST} is not JSON; it is truncated or corrupt") from e
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelFileError(f"{MANIFEST} does not name the format {FORMAT}")
    if manifest.get("version") != VERSION:
        raise ModelFileError(
            f"{FORMAT} version {manifest.get('version')!r} is not supported; this program reads "
            f"version {VERSION}"
        )
    for key in ("metadata", "graph", "weights"):
        if not isinstance(manifest.get(key), dict):
            raise ModelFileError(f"{MANIFEST} lacks {key!r}")
    return manifest


def _bytes(folder: Path, name: str, sha256: object, limit: int = MAX_BYTES) -> bytes:
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ModelFileError(f"{name} lies outside the folder")
        if not path.is_file():
            raise ModelFileError(f"{name} is missing")
        with path.open("rb") as f:
            content = f.read(limit + 1)
    except (OSError, MemoryError) as e:
        raise ModelFileError(f"{name} cannot be read ({e})") from e
    if len(content) > limit:
        raise ModelFileError(f"{name} is larger than {limit} bytes")
    if name != MANIFEST and hashlib.sha256(content).hexdigest() != sha256:
        raise ModelFileError(f"{name} differs from its sha256 in {MANIFEST}; it is damaged")
    return content


def _graph(content: bytes) -> onnx.ModelProto:
    with reading(GRAPH):
        model = onnx.ModelProto.FromString(content)
        onnx.checker.check_model(model)
        reject_foreign(model)
    if model.functions or any(n.domain not in ("", "ai.onnx") for n in model.graph.node):
        raise ModelFileError(f"{GRAPH} must use standard operators only")
    return model


def _fixed_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        return None
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def _weight(folder: Path, entry: Any) -> Csr:
    try:
        name, shape, nnz = str(entry["file"]), tuple(entry["shape"]), entry["nnz"]
        sha256 = entry["sha256"]
    except (KeyError, TypeError) as e:
        raise ModelFileError("its entry needs file, shape, nnz and sha256") from e
    if not WEIGHT_FILE.fullmatch(name):
        raise ModelFileError(f"{name!r} is not the name of a weight file (weights/NAME.npz)")
    if not all(type(d) is int for d in (*shape, nnz)):
        raise ModelFileError("its shape and nnz must be integers")
    if not 0 <= nnz <= checked_size(shape):
        raise ModelFileError(f"{nnz} non-zeros do not fit shape {shape}")
    n_bytes = 12 * nnz + 8 * (shape[0] + 1) + 4096  # float32, int64, and the npy headers
    content = _bytes(folder, name, sha256, 2 * n_bytes)
    arrays = _npz(content, min(n_bytes, FREE_BYTES + MAX_INFLATION * len(content)))
    matrix = (shape[0], math.prod(shape) // shape[0])
    if arrays["format"].tobytes().rstrip(b"\0") != b"csr" or arrays["shape"].tolist() != [*matrix]:
        raise ModelFileError(f"{name} is not a CSR matrix of shape {matrix}")
    csr = Csr(arrays["data"], arrays["indices"], arrays["indptr"], shape)
    if csr.data.size != nnz:
        raise ModelFileError(f"{name} has {csr.data.size} non-zeros, {MANIFEST} says {nnz}")
    return csr


def _npz(content: bytes, limit: int) -> dict[str, Array]:
    """The arrays of what scipy.sparse.save_npz wrote, at most `limit` bytes in all."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [m.filename for m in archive.infolist()]
            if len(names) != len(set(names)) or not _MEMBERS.issubset(names):
                raise ModelFileError("its file lacks what scipy.sparse.save_npz writes")
            arrays = {}
            for name in sorted(_MEMBERS):
                with archive.open(name) as f:
                    member = f.read(limit + 1)
                limit -= len(member)
                if limit < 0:
                    raise ModelFileError("its file unpacks to more bytes than its shape allows")
                arrays[name.removesuffix(".npy")] = _npy(member)
            return arrays
    except _ZIP_ERRORS as e:
        raise ModelFileError(f"its file is not a readable npz file ({e})") from e


def _npy(content: bytes) -> Array:
    """One array of at most one axis; ValueError unless its header accounts for every byte.

    The header is matched, not evaluated as numpy does it.
    """
    version, start = content[:8], 10 if content[6:7] == b"\x01" else 12
    if version not in (b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"):
        raise ValueError("a member is not an npy array")
    end = start + int.from_bytes(content[8:start], "little")
    header = _NPY_HEADER.fullmatch(content[start:end])
    if header is None:
        raise ValueError(f"an array has the header {content[start:end][:80]!r}")
    dtype, length = np.dtype(header["dtype"].decode()), header["length"]
    if int(length or 1) * dtype.itemsize != len(content) - end:
        raise ValueError("an array's bytes do not fill its shape")
    array = np.frombuffer(content, dtype, offset=end)
    return array if length else array.reshape(())
