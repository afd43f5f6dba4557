"""Bytes of the file, of its dense form, and the entropy bound of any packing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import numpy_helper

from fggp_deploy.format.choice import entropy_bound_bytes
from fggp_deploy.format.model import Layer, SparseModel
from fggp_deploy.graph.reading import reading, stored_bytes


@dataclass(frozen=True)
class EncodingCount:
    """How many weight tensors are stored in one encoding, their non-zeros and their bytes."""

    tensors: int
    nnz: int
    stored_bytes: int


@dataclass(frozen=True)
class Size:
    """File sizes in bytes.

    `dense_bytes` is the same network with its zeros written out, `reference_bytes` the dense
    model's file. `bound_bytes` is `dense_bytes` with every weight tensor at the entropy of its mask
    plus its non-zero values.
    """

    file_bytes: int
    dense_bytes: int
    reference_bytes: int | None
    bound_bytes: int
    encodings: dict[str, EncodingCount]


def size(packed: SparseModel, reference: Path | None) -> Size:
    """Measure a model file and its dense model's file, if there is one."""
    with reading(packed.path.name):
        dense = packed.dense()
        dense_bytes, bound = dense.ByteSize(), bound_bytes(dense)
    return Size(
        file_bytes=packed.file_bytes(),
        dense_bytes=dense_bytes,
        reference_bytes=stored_bytes(reference) if reference is not None else None,
        bound_bytes=bound,
        encodings=encodings(packed.layers),
    )


def bound_bytes(dense: onnx.ModelProto) -> int:
    """The dense file's bytes with each float initializer of two or more dimensions at its bound."""
    total = dense.ByteSize()
    for t in dense.graph.initializer:
        w = numpy_helper.to_array(t)
        if w.dtype.kind == "f" and w.ndim > 1 and w.size:
            total += min(0, round(entropy_bound_bytes(w)) - w.nbytes)
    return total


def encodings(layers: Iterable[Layer]) -> dict[str, EncodingCount]:
    """Count the layers by their encoding, in alphabetical order."""
    counts: dict[str, EncodingCount] = {}
    for layer in sorted(layers, key=lambda layer: layer.encoding):
        c = counts.get(layer.encoding, EncodingCount(0, 0, 0))
        counts[layer.encoding] = EncodingCount(
            c.tensors + 1, c.nnz + layer.nnz, c.stored_bytes + layer.stored_bytes
        )
    return counts
