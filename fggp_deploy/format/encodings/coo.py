"""The encoding `coo`: values and flat indices, as ONNX's `sparse_initializer` stores them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from onnx import SparseTensorProto, numpy_helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings.base import Encoding
from fggp_deploy.format.encodings.checks import Array, checked_size
from fggp_deploy.graph.tensors import tensor_array


@dataclass(frozen=True)
class Coo(Encoding):
    """Element `indices[i]` of the flat weight is `values[i]`; the rest is zero.

    `values` float32 [n], `indices` int64 [n], strictly increasing. Raises ModelFileError.
    """

    values: Array
    indices: Array
    shape: tuple[int, ...]

    name: ClassVar[str] = "coo"
    parts: ClassVar[tuple[str, ...]] = ("values", "indices")

    def __post_init__(self) -> None:
        size = checked_size(self.shape)
        n = self.values.size
        if self.values.dtype != np.float32 or self.values.shape != (n,) or n > size:
            raise ModelFileError(
                f"COO values must be float32 with at most {size} entries, "
                f"got {self.values.dtype} {self.values.shape}"
            )
        if self.indices.dtype != np.int64 or self.indices.shape != (n,):
            raise ModelFileError(
                f"COO indices must be int64 ({n},), got {self.indices.dtype} {self.indices.shape}"
            )
        if n and (self.indices[0] < 0 or self.indices[-1] >= size):
            raise ModelFileError(f"a COO index lies outside 0..{size - 1}")
        if (self.indices[1:] <= self.indices[:-1]).any():
            raise ModelFileError("COO indices must increase strictly")

    @classmethod
    def encode(cls, w: Array) -> Self:
        """Encode a float32 weight of any shape."""
        flat = np.ascontiguousarray(w, np.float32).reshape(-1)
        index = np.flatnonzero(flat)
        return cls(flat[index], index.astype(np.int64), w.shape)

    def decode(self) -> Array:
        """The dense float32 weight of `shape`."""
        dense = np.zeros(math.prod(self.shape), np.float32)
        dense[self.indices] = self.values
        return dense.reshape(self.shape)

    @classmethod
    def from_tensor(cls, tensor: SparseTensorProto) -> Self:
        """Read one with flat or per-axis indices; raises ModelFileError or ValueError."""
        values, indices = tensor_array(tensor.values), tensor_array(tensor.indices)
        shape = tuple(tensor.dims)
        checked_size(shape)
        if indices.ndim == 2 and indices.shape[1] == len(shape):
            indices = np.ravel_multi_index(tuple(indices.T), shape)
        return cls(values, indices, shape)

    def to_tensor(self, name: str) -> SparseTensorProto:
        """The sparse initializer of this name, with flat indices."""
        tensor = SparseTensorProto(dims=self.shape)
        tensor.values.CopyFrom(numpy_helper.from_array(self.values, name))
        tensor.indices.CopyFrom(numpy_helper.from_array(self.indices, f"{name}.indices"))
        return tensor
