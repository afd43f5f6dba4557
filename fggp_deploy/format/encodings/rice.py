"""The encoding of int8 weights: numbers, scales, and their places as a Rice code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings import Array, checked_size

MAX_LOW_BITS = 16  # of a Rice code
LARGEST_SCALE = 1e36  # so that 128 times a scale is a float32


@dataclass(frozen=True)
class Rice:
    """Whole numbers at indices that a Rice code tells; the rest is zero.

    The distance of entry i from the one before (the first counts from −1) is q·2^k + r + 1.
    `high` holds bits, least significant of a byte first: for each entry q zeros and a one; at most
    seven zeros fill its last byte. `low` uint8 [k, ceil(n / 8)]: bit i of row j is bit j of r.
    `values` int8 [n], n ≥ 1, 1 ≤ k ≤ 16. With `scales`, float32 or float16 of the weight's rank,
    each side 1 or the weight's, the weight is float32: number times scale. Raises ModelFileError.
    Source: R. F. Rice, "Some practical universal noiseless coding techniques", JPL 79-22, 1979.
    """

    values: Array
    scales: Array | None
    high: Array
    low: Array
    shape: tuple[int, ...]
    encoding: ClassVar[str] = "rice8"

    def __post_init__(self) -> None:
        size = checked_size(self.shape)
        n = self.values.size
        if self.values.dtype != np.int8 or self.values.shape != (n,) or not 1 <= n <= size:
            raise ModelFileError(
                f"values must be int8 with 1 to {size} entries, "
                f"got {self.values.dtype} {self.values.shape}"
            )
        if self.low.dtype != np.uint8 or self.low.ndim != 2 or self.low.shape[1] != -(-n // 8):
            raise ModelFileError(
                f"low must be uint8 (k, {-(-n // 8)}), got {self.low.dtype} {self.low.shape}"
            )
        if not 1 <= len(self.low) <= MAX_LOW_BITS:
            raise ModelFileError(f"low must have 1 to {MAX_LOW_BITS} rows, got {len(self.low)}")
        if n % 8 and (self.low[:, -1] >> (n % 8)).any():
            raise ModelFileError(f"bits of low are set past its {n} entries")
        if self.high.dtype != np.uint8 or self.high.ndim != 1:
            raise ModelFileError(
                f"high must be one-dimensional uint8, got {self.high.dtype} {self.high.shape}"
            )
        n_ends = int(np.unpackbits(self.high).sum(dtype=np.int64))
        if n_ends != n:
            raise ModelFileError(f"high ends {n_ends} entries but there are {n} values")
        if not self.high[-1]:
            raise ModelFileError("high goes on after its last entry")
        last = int(self._flat_index()[-1])
        if last >= size:
            raise ModelFileError(f"entries end at index {last}, past the weight's {size} elements")
        if self.scales is not None:
            self._check_scales(self.scales)

    def _check_scales(self, scales: Array) -> None:
        fits = len(scales.shape) == len(self.shape) and all(
            a in (1, b) for a, b in zip(scales.shape, self.shape, strict=True)
        )
        if scales.dtype not in (np.float32, np.float16) or not fits:
            raise ModelFileError(
                f"scales must be float32 or float16, each side 1 or that of {self.shape}, "
                f"got {scales.dtype} {scales.shape}"
            )
        factors = scales.astype(np.float32)
        if not ((factors > 0) & (factors <= LARGEST_SCALE)).all():
            raise ModelFileError(f"scales must lie above 0 and not above {LARGEST_SCALE:g}")

    def _flat_index(self) -> npt.NDArray[np.int64]:
        n = self.values.size
        ends = np.flatnonzero(np.unpackbits(self.high, bitorder="little"))
        quotients = ends - np.arange(n)  # summed up to each entry
        bits = np.unpackbits(self.low, axis=1, count=n, bitorder="little")
        remainders = np.zeros(n, np.int64)
        for j, row in enumerate(bits):
            remainders += row.astype(np.int64) << j
        return (quotients << len(self.low)) + np.cumsum(remainders + 1) - 1

    @property
    def nnz(self) -> int:
        """Number of non-zero weights."""
        return int(np.count_nonzero(self.values))

    @property
    def stored_bytes(self) -> int:
        """Bytes of values, scales and positions."""
        scales = 0 if self.scales is None else self.scales.nbytes
        return int(self.values.nbytes + scales + self.high.nbytes + self.low.nbytes)

    def decode(self) -> Array:
        """The dense weight of `shape`, float32, or int8 without scales."""
        dense = np.zeros(math.prod(self.shape), np.int8)
        dense[self._flat_index()] = self.values
        whole = dense.reshape(self.shape)
        if self.scales is None:
            return whole
        return whole.astype(np.float32) * self.scales.astype(np.float32)
