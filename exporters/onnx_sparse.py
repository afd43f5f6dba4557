"""Standard ONNX with `sparse_initializer`, for tools that need it; larger than the packed file."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, SparseTensorProto, TensorProto, numpy_helper

from fggp_deploy.format.encodings.coo import Coo
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.packing import pack
from fggp_deploy.graph.constants import overridable

from . import Note, silent
from .onnx_dense import write

DEFAULT_NAME = "model.sparse.onnx"


def export(dense: ModelProto, metadata: Metadata, path: Path, *, note: Note = silent) -> Path:
    """Standard ONNX with `sparse_initializer`: for those who ask, and larger than the packed file.

    A float32 weight of two or more dimensions is stored as float32 values and int64 flat indices
    if that is smaller than dense, which it is from 67% zeros on. `note` is called with the
    disadvantages of this format. Raises MachineError if the path cannot be written.
    """
    model = ModelProto()
    model.CopyFrom(dense)
    graph = model.graph
    replaceable = overridable(graph)
    kept: list[TensorProto] = []
    for tensor in dense.graph.initializer:
        sparse = _sparse(tensor) if tensor.name not in replaceable else None
        if sparse is None:
            kept.append(tensor)
        else:
            graph.sparse_initializer.append(sparse)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    path = write(model, metadata, path)
    note(
        f"sparse_initializer takes 12 bytes a non-zero: {path.stat().st_size:,} bytes, where "
        f"--format onnx takes about {pack(dense).ByteSize():,}; at 50% sparsity it would be larger "
        f"than dense. The checker's full check, the reference evaluator, the version converter, "
        f"onnx-ir and quantizers fail on it, and onnxruntime makes it dense at load"
    )
    return path


def _sparse(tensor: TensorProto) -> SparseTensorProto | None:
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
        return None
    w = numpy_helper.to_array(tensor)
    if not w.any():  # some runtimes cannot read an empty list of values
        return None
    coo = Coo.encode(w)
    return coo.to_tensor(tensor.name) if coo.stored_bytes < w.nbytes else None
