"""The encoding `csr`: compressed sparse rows, as a `.csr` folder stores them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings.base import Encoding
from fggp_deploy.format.encodings.checks import Array, checked_size


@dataclass(frozen=True)
class Csr(Encoding):
    """Compressed sparse rows of the weight reshaped to [shape[0], −1].

    `data` float32 [n]; `indices` int32 or int64 [n], columns strictly increasing in each row;
    `indptr` of the same type [rows + 1]. Raises ModelFileError.
    """

    data: Array
    indices: Array
    indptr: Array
    shape: tuple[int, ...]

    name: ClassVar[str] = "csr"
    parts: ClassVar[tuple[str, ...]] = ("data", "indices", "indptr")

    def __post_init__(self) -> None:
        size = checked_size(self.shape)
        n, rows = self.data.size, self.shape[0]
        if self.data.dtype != np.float32 or self.data.shape != (n,) or n > size:
            raise ModelFileError(
                f"CSR data must be float32 with at most {size} entries, "
                f"got {self.data.dtype} {self.data.shape}"
            )
        for name, a, length in (("indices", self.indices, n), ("indptr", self.indptr, rows + 1)):
            if a.dtype not in (np.int32, np.int64) or a.shape != (length,):
                raise ModelFileError(
                    f"CSR {name} must be int32 or int64 ({length},), got {a.dtype} {a.shape}"
                )
        if (
            self.indptr[0] != 0
            or self.indptr[-1] != n
            or (self.indptr[1:] < self.indptr[:-1]).any()
        ):
            raise ModelFileError(f"CSR indptr must rise from 0 to {n}")
        columns = size // rows
        if n and (self.indices.min() < 0 or self.indices.max() >= columns):
            raise ModelFileError(f"a CSR index lies outside 0..{columns - 1}")
        if (np.diff(self._flat_index()) <= 0).any():
            raise ModelFileError("CSR indices must increase strictly in each row")

    @classmethod
    def encode(cls, w: Array) -> Self:
        """Encode a float32 weight of two or more dimensions."""
        matrix = np.ascontiguousarray(w, np.float32).reshape(w.shape[0], -1)
        rows, columns = np.nonzero(matrix)
        indptr = np.zeros(w.shape[0] + 1, np.int32)
        np.cumsum(np.bincount(rows, minlength=w.shape[0]), out=indptr[1:])
        return cls(matrix[rows, columns], columns.astype(np.int32), indptr, w.shape)

    def decode(self) -> Array:
        """The dense float32 weight of `shape`."""
        dense = np.zeros(math.prod(self.shape), np.float32)
        dense[self._flat_index()] = self.data
        return dense.reshape(self.shape)

    def _flat_index(self) -> npt.NDArray[np.int64]:
        rows = self.shape[0]
        row = np.repeat(np.arange(rows, dtype=np.int64), np.diff(self.indptr))
        return row * (math.prod(self.shape) // rows) + self.indices
