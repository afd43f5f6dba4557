"""A folder of scipy CSR arrays, the graph, and a manifest: for research and other tools."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import scipy.sparse
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fggp_deploy.common.files import atomic_path, sha256_file
from fggp_deploy.format.csr_folder import FORMAT, GRAPH, MANIFEST, VERSION, WEIGHT_FILE
from fggp_deploy.format.encodings.csr import Csr
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.graph.constants import overridable

from . import Note, silent

DEFAULT_NAME = "model.csr"


def export(dense: ModelProto, metadata: Metadata, path: Path, *, note: Note = silent) -> Path:
    """A folder of scipy CSR arrays, the graph, and a manifest: for research and other tools.

    A weight of two or more dimensions is stored sparse if CSR is smaller than dense; in
    graph.onnx it is then an input of the graph. `scipy.sparse.load_npz` reads each weight as
    [shape[0], −1]. `note` is called for each of the others. Raises MachineError if the
    path cannot be written.
    """
    graph = ModelProto()
    graph.CopyFrom(dense)
    weights: dict[str, Csr] = {}
    kept = []
    replaceable = overridable(dense.graph)
    for tensor in dense.graph.initializer:
        csr = _sparse(tensor) if tensor.name not in replaceable else None
        if csr is None:
            kept.append(tensor)
            if len(tensor.dims) >= 2:
                note(f"left dense: {tensor.name}: CSR is no smaller")
            continue
        weights[tensor.name] = csr
        value = helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, csr.shape)
        graph.graph.input.append(value)
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    with atomic_path(path) as folder:
        (folder / "weights").mkdir(parents=True)
        (folder / GRAPH).write_bytes(graph.SerializeToString(deterministic=True))
        entries = {}
        for index, (name, csr) in enumerate(weights.items()):
            file = _file_name(name, index)
            _save(folder / file, csr)
            entries[name] = {
                "file": file,
                "shape": list(csr.shape),
                "nnz": csr.nnz,
                "sha256": sha256_file(folder / file),
            }
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "metadata": {k: json.loads(v) for k, v in metadata.to_props().items()},
            "graph": {"file": GRAPH, "sha256": sha256_file(folder / GRAPH)},
            "weights": entries,
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return path


def _sparse(tensor: TensorProto) -> Csr | None:
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
        return None
    w = numpy_helper.to_array(tensor)
    if not w.size:
        return None
    csr = Csr.encode(w)
    return csr if csr.stored_bytes < w.nbytes else None


def _file_name(weight: str, index: int) -> str:
    """The weight's own name if a file can have it; distinct also on a caseless file system."""
    name = f"weights/{weight}.npz"
    if WEIGHT_FILE.fullmatch(name) and weight == weight.lower() and len(weight) < 200:
        return name
    return f"weights/{index}_{re.sub(r'[^A-Za-z0-9_.-]', '_', weight)[:150]}.npz"


def _save(path: Path, csr: Csr) -> None:
    shape = (csr.shape[0], math.prod(csr.shape[1:]))
    matrix = scipy.sparse.csr_array((csr.data, csr.indices, csr.indptr), shape=shape)
    scipy.sparse.save_npz(path, matrix)
