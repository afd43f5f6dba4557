"""The encodings of a sparse weight, each a frozen value that is checked when made.

So what a hostile file says never reaches an index operation unchecked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

MAX_ELEMENTS = 2**29  # of all weights: 2 GiB as float32, what a protobuf could hold dense
FREE_ELEMENTS = 2**24  # what any file may unfold to: 64 MiB
ELEMENTS_PER_BYTE = 1024  # and what each stored byte may add: a weight at 99.98% has 1,000


@dataclass(frozen=True)
class Gaps:
    """Entry i has value `values[i]` at flat index gaps[0] + … + gaps[i] − 1; the rest is zero.

    `values` float32 or float16 [n], `gaps` uint8 or uint16 [n], every gap ≥ 1, n ≥ 1. A distance
    too large for the type is bridged by entries whose value is zero. Raises ModelFileError.
    """

    values: Array
    gaps: Array
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        size = checked_size(self.shape)
        check_values(self.values, size)
        if self.gaps.shape != self.values.shape:
            raise ModelFileError(f"{self.values.size} values but gaps of shape {self.gaps.shape}")
        check_gaps(self.gaps, size, "elements")

    @property
    def encoding(self) -> str:
        """`gaps8` or `gaps16`."""
        return "gaps8" if self.gaps.dtype == np.uint8 else "gaps16"

    @property
    def nnz(self) -> int:
        """Number of non-zero weights; bridging entries do not count."""
        return int(np.count_nonzero(self.values))

    @property
    def stored_bytes(self) -> int:
        """Bytes of values and gaps."""
        return int(self.values.nbytes + self.gaps.nbytes)

    def decode(self) -> Floats:
        """The dense float32 weight of `shape`."""
        dense = np.zeros(math.prod(self.shape), np.float32)
        dense[np.cumsum(self.gaps, dtype=np.int64) - 1] = self.values
        return dense.reshape(self.shape)


@dataclass(frozen=True)
class Bitmask:
    """Bit i mod 8 (least significant first) of byte i div 8 says whether element i has a value.

    `values` float32 or float16 [n] in index order, `bits` uint8 [ceil(size / 8)] with n bits set
    and none past the last element, n ≥ 1. Raises ModelFileError.
    """

    values: Array
    bits: Array
    shape: tuple[int, ...]
    encoding: ClassVar[str] = "bitmask"

    def __post_init__(self) -> None:
        size = checked_size(self.shape)
        check_values(self.values, size)
        if self.bits.dtype != np.uint8 or self.bits.shape != (-(-size // 8),):
            raise ModelFileError(
                f"bits must be uint8 ({-(-size // 8)},), got {self.bits.dtype} {self.bits.shape}"
            )
        if size % 8 and int(self.bits[-1]) >> (size % 8):
            raise ModelFileError(f"bits are set past the weight's {size} elements")
        n_set = int(np.unpackbits(self.bits).sum(dtype=np.int64))
        if n_set != self.values.size:
            raise ModelFileError(f"{n_set} bits are set but there are {self.values.size} values")

    @property
    def nnz(self) -> int:
        """Number of non-zero weights."""
        return int(np.count_nonzero(self.values))

    @property
    def stored_bytes(self) -> int:
        """Bytes of values and bits."""
        return int(self.values.nbytes + self.bits.nbytes)

    def decode(self) -> Floats:
        """The dense float32 weight of `shape`."""
        size = math.prod(self.shape)
        dense = np.zeros(size, np.float32)
        dense[np.unpackbits(self.bits, count=size, bitorder="little").view(bool)] = self.values
        return dense.reshape(self.shape)


@dataclass(frozen=True)
class Csr:
    """Compressed sparse rows of the weight reshaped to [shape[0], −1].

    `data` float32 [n]; `indices` int32 or int64 [n], columns strictly increasing in each row;
    `indptr` of the same type [rows + 1]. Raises ModelFileError.
    """

    data: Array
    indices: Array
    indptr: Array
    shape: tuple[int, ...]
    encoding: ClassVar[str] = "csr"

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

    def _flat_index(self) -> npt.NDArray[np.int64]:
        rows = self.shape[0]
        row = np.repeat(np.arange(rows, dtype=np.int64), np.diff(self.indptr))
        return row * (math.prod(self.shape) // rows) + self.indices

    @property
    def nnz(self) -> int:
        """Number of non-zero weights."""
        return int(np.count_nonzero(self.data))

    @property
    def stored_bytes(self) -> int:
        """Bytes of data, indices and indptr, before any compression."""
        return int(self.data.nbytes + self.indices.nbytes + self.indptr.nbytes)

    def decode(self) -> Floats:
        """The dense float32 weight of `shape`."""
        dense = np.zeros(math.prod(self.shape), np.float32)
        dense[self._flat_index()] = self.data
        return dense.reshape(self.shape)


@dataclass(frozen=True)
class Coo:
    """Element `indices[i]` of the flat weight is `values[i]`; the rest is zero.

    `values` float32 [n], `indices` int64 [n], strictly increasing. Raises ModelFileError.
    """

    values: Array
    indices: Array
    shape: tuple[int, ...]
    encoding: ClassVar[str] = "coo"

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

    @property
    def nnz(self) -> int:
        """Number of non-zero weights."""
        return int(np.count_nonzero(self.values))

    @property
    def stored_bytes(self) -> int:
        """Bytes of values and indices."""
        return int(self.values.nbytes + self.indices.nbytes)

    def decode(self) -> Floats:
        """The dense float32 weight of `shape`."""
        dense = np.zeros(math.prod(self.shape), np.float32)
        dense[self.indices] = self.values
        return dense.reshape(self.shape)


class Packed(Protocol):
    """A weight in one of the encodings: these, blocks.Blocks and rice.Rice."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The dense weight's."""
        ...

    @property
    def encoding(self) -> str:
        """Its name, as docs/format.md has it."""
        ...

    @property
    def nnz(self) -> int:
        """Number of non-zero weights."""
        ...

    @property
    def stored_bytes(self) -> int:
        """Bytes of all its parts."""
        ...

    def decode(self) -> Array:
        """The dense weight of `shape`: float32, or int8 (of a quantised network)."""
        ...


def checked_size(shape: tuple[int, ...]) -> int:
    """Number of elements; raises ModelFileError unless every side is ≥ 1 and the product fits."""
    if not 1 <= len(shape) <= 8 or any(d < 1 or d > MAX_ELEMENTS for d in shape):
        raise ModelFileError(f"a weight's shape must have 1 to 8 positive sides, got {shape}")
    size = math.prod(shape)
    if size > MAX_ELEMENTS:
        raise ModelFileError(f"a weight of shape {shape} exceeds {MAX_ELEMENTS} elements")
    return size


def check_expansion(weights: Iterable[Packed]) -> None:
    """Raise ModelFileError for weights that unfold to more than their stored bytes justify.

    So a file of some bytes cannot ask for gigabytes.
    """
    weights = list(weights)
    size = sum(math.prod(w.shape) for w in weights)
    n_bytes = sum(w.stored_bytes for w in weights)
    limit = min(MAX_ELEMENTS, FREE_ELEMENTS + ELEMENTS_PER_BYTE * n_bytes)
    if size > limit:
        raise ModelFileError(
            f"weights of {n_bytes:,} bytes unfold to {size:,} elements; {limit:,} are allowed"
        )


def check_values(values: Array, size: int) -> None:
    """Raise ModelFileError unless these are 1 to `size` floats."""
    if values.dtype not in (np.float32, np.float16) or values.ndim != 1:
        raise ModelFileError(
            f"values must be one-dimensional float32 or float16, got {values.dtype} {values.shape}"
        )
    if not 1 <= values.size <= size:
        raise ModelFileError(f"there must be 1 to {size} values, got {values.size}")


def check_gaps(gaps: Array, size: int, what: str) -> None:
    """Raise ModelFileError unless there are gaps, of at least 1 each, that stay within `size`."""
    if gaps.dtype not in (np.uint8, np.uint16) or gaps.ndim != 1 or not gaps.size:
        raise ModelFileError(
            f"gaps must be one-dimensional uint8 or uint16, got {gaps.dtype} {gaps.shape}"
        )
    if not gaps.all():
        raise ModelFileError("a gap is 0; every gap must be at least 1")
    last = int(gaps.sum(dtype=np.int64)) - 1
    if last >= size:
        raise ModelFileError(f"gaps end at index {last}, past the weight's {size} {what}")
