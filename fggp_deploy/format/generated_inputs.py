"""Inputs that a seed generates, the same on every machine: those of self-tests and trial runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

MAX_ELEMENTS = 2**26  # of all inputs: 256 MiB
MAX_WHOLE = 2**32  # the largest magnitude of a whole number in a range
_TYPES = {"float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"}


def fmix32(x: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """MurmurHash3's 32-bit finalizer, elementwise, modulo 2^32.

    >>> hex(fmix32(np.array([1], np.uint32))[0])
    '0x514e28b7'
    """
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def steps(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint32]:
    """Whole numbers of `shape` in 0..2^24−1: element i is fmix32(seed + i) >> 8."""
    i = np.arange(seed, seed + math.prod(shape), dtype=np.uint64).astype(np.uint32)
    return (fmix32(i) >> np.uint32(8)).reshape(shape)


def probe(seed: int, shape: tuple[int, ...], *, start: int = 0) -> Floats:
    """Float32 of `shape` in [−1, 1): element i is (fmix32(seed + i) >> 8) / 2^23 − 1, exactly.

    `start` is the i of the first element.
    """
    return steps(seed + start, shape).astype(np.float32) / np.float32(2**23) - np.float32(1)


@dataclass(frozen=True)
class Input:
    """An input of the graph, and the range of its values.

    Floats are drawn from [low, high), whole numbers from low..high; `range` is (low, high). If it
    is None, floats are drawn from [−1, 1), and whole numbers and booleans are 0. Raises
    ModelFileError for a type, shape or range that no input has.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _TYPES:
            raise ModelFileError(f"a self-test's input {self.name!r:.60} is {self.dtype!r:.20}")
        if not all(isinstance(d, int) and 0 < d <= MAX_ELEMENTS for d in self.shape):
            raise ModelFileError(f"a self-test's input {self.name!r:.60} has shape {self.shape}")
        low, high = self.bounds
        least, most = self._limits()
        if not least <= low <= high <= most:  # false for NaN
            raise ModelFileError(
                f"a self-test's input {self.name!r:.60} has the range {self.range}"
            )

    def __str__(self) -> str:
        """Its name and size for people, as `x 1×3×224×224`."""
        return f"{self.name} {'×'.join(map(str, self.shape))}".strip()

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether its values are floats."""
        return np.dtype(self.dtype).kind == "f"

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        if self.range is not None:
            return self.range
        return (-1, 1) if self.is_float else (0, 0)

    @property
    def n_drawn(self) -> int:
        """How many elements of the seed's sequence it takes; none if all values are equal."""
        low, high = self.bounds
        return self.size if low < high else 0

    def values(self, seed: int) -> Array:
        """Its values; `seed` is that of its first element."""
        (low, high), dtype = self.bounds, np.dtype(self.dtype)
        if not self.n_drawn:
            return np.full(self.shape, low, dtype)
        if self.range is None:
            return probe(seed, self.shape).astype(dtype)
        if self.is_float:
            share = steps(seed, self.shape).astype(np.float32) / np.float32(2**24)
            return (np.float32(low) + share * np.float32(high - low)).astype(dtype)
        drawn = steps(seed, self.shape).astype(np.int64)
        return (int(low) + (drawn * (int(high) - int(low) + 1) >> 24)).astype(dtype)

    def _limits(self) -> tuple[float, float]:
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            most = float(np.finfo(np.float16 if dtype == np.float16 else np.float32).max) / 2
            return -most, most
        if dtype.kind == "b":
            return 0, 1
        info = np.iinfo(dtype)
        return max(info.min, -MAX_WHOLE), min(info.max, MAX_WHOLE)


def feeds(seed: int, inputs: Sequence[Input]) -> dict[str, Array]:
    """The inputs by name: one sequence, from which one input after the other takes its values."""
    made: dict[str, Array] = {}
    for i in inputs:
        made[i.name] = np.asarray(i.values(seed % 2**32))
        seed += i.n_drawn
    return made


def many_feeds(inputs: Sequence[Input], n: int) -> Iterator[dict[str, Array]]:
    """`feeds` of `n` seeds, whose sequences do not overlap."""
    size = sum(i.n_drawn for i in inputs)
    return (feeds(k * size, inputs) for k in range(n))
