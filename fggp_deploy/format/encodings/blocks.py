"""The encoding of weights whose small blocks share one |w|: a value a block, and the signs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings import (
    MAX_ELEMENTS,
    Array,
    Floats,
    check_gaps,
    check_values,
    checked_size,
)

SHAPES = ((1, 4), (4, 1), (4, 4), (1, 8), (8, 1))  # rows and columns that `choose_blocks` tries

GapType = type[np.uint8 | np.uint16]


@dataclass(frozen=True)
class Blocks:
    """Blocks of the weight as [shape[0], the rest], row by row of blocks; what is not stored is 0.

    Stored block i is the (gaps[0] + … + gaps[i] − 1)-th of all, `block` rows and columns large, its
    elements row by row. Where bit i of `free` is 0, all have the magnitude of its one value; where
    it is 1, each has its own. Bit i·(elements of a block) + j of `signs` says − of element j.

    `values` float32 or float16, as many as magnitudes; `gaps` uint8 or uint16 [n], every gap ≥ 1,
    n ≥ 1; `free` and `signs` uint8, the least significant bit first, none past the end. The blocks
    fill the weight. A distance too large for the gaps' type is bridged by blocks of value zero.
    Raises ModelFileError.
    """

    values: Array
    gaps: Array
    free: Array
    signs: Array
    shape: tuple[int, ...]
    block: tuple[int, ...]
    encoding: ClassVar[str] = "blocks"

    def __post_init__(self) -> None:
        size = checked_size(self.shape)
        if len(self.block) != 2 or any(not 1 <= d <= MAX_ELEMENTS for d in self.block):
            raise ModelFileError(f"a block has two sides of at least 1, got {self.block}")
        columns = size // self.shape[0]
        if len(self.shape) < 2 or self.shape[0] % self.block[0] or columns % self.block[1]:
            raise ModelFileError(f"blocks {self.block} do not fill a weight of shape {self.shape}")
        check_values(self.values, size)
        check_gaps(self.gaps, size // self.elements, "blocks")
        n = len(self.gaps)
        for name, bits, count in (
            ("free", self.free, n), ("signs", self.signs, n * self.elements),
        ):  # fmt: skip
            if bits.dtype != np.uint8 or bits.shape != (-(-count // 8),):
                raise ModelFileError(
                    f"{name} must be uint8 ({-(-count // 8)},), got {bits.dtype} {bits.shape}"
                )
            if count % 8 and int(bits[-1]) >> (count % 8):
                raise ModelFileError(f"{name} has bits past its {count}")
        wanted = n + (self.elements - 1) * int(np.unpackbits(self.free).sum(dtype=np.int64))
        if self.values.size != wanted:
            raise ModelFileError(f"the blocks have {wanted} values, got {self.values.size}")

    @property
    def elements(self) -> int:
        """Elements of a block."""
        return math.prod(self.block)

    @property
    def nnz(self) -> int:
        """Number of non-zero weights."""
        return int(np.count_nonzero(self._magnitudes()))

    @property
    def stored_bytes(self) -> int:
        """Bytes of values, gaps, free and signs."""
        return sum(int(a.nbytes) for a in (self.values, self.gaps, self.free, self.signs))

    def decode(self) -> Floats:
        """The dense float32 weight of `shape`."""
        n = len(self.gaps)
        negative = np.unpackbits(self.signs, count=n * self.elements, bitorder="little")
        magnitudes = self._magnitudes().astype(np.float32)
        signed = np.where(negative.reshape(n, -1), -magnitudes, magnitudes)
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        all_blocks = np.zeros((rows * columns // self.elements, self.elements), np.float32)
        all_blocks[np.cumsum(self.gaps, dtype=np.int64) - 1] = signed
        height, width = self.block
        grid = all_blocks.reshape(rows // height, columns // width, height, width)
        return np.ascontiguousarray(grid.transpose(0, 2, 1, 3)).reshape(self.shape)

    def _magnitudes(self) -> Array:
        """Of each element of the stored blocks, [n, elements]."""
        n = len(self.gaps)
        free = np.unpackbits(self.free, count=n, bitorder="little").astype(np.int64)
        width = 1 + free * (self.elements - 1)
        index = (np.cumsum(width) - width)[:, None] + free[:, None] * np.arange(self.elements)
        return np.asarray(self.values[index])


def to_blocks(w: Array, block: tuple[int, int], dtype: GapType = np.uint8) -> Blocks:
    """Encode a float32 weight that blocks of this shape fill; a zero one keeps its first block.

    >>> b = to_blocks(np.float32([[0, 0, 2, -2], [3, 1, 0, 0]]), (1, 2))
    >>> b.gaps.tolist(), b.values.tolist(), b.free.tolist(), b.signs.tolist()
    ([2, 1], [2.0, 3.0, 1.0], [2], [2])
    """
    cut = _cut(w, block)
    index = np.flatnonzero(cut.any(1))
    if not len(index):
        index = np.zeros(1, np.int64)
    largest = int(np.iinfo(dtype).max)
    distance = np.diff(index, prepend=-1)
    bridges = (distance - 1) // largest  # blocks of zeros before each
    at = np.cumsum(bridges + 1) - 1
    n = len(index) + int(bridges.sum())
    gaps = np.full(n, largest, dtype)
    gaps[at] = distance - largest * bridges
    stored = np.zeros((n, cut.shape[1]), np.float32)
    stored[at] = cut[index]
    magnitude = np.abs(stored)
    free = (magnitude != magnitude[:, :1]).any(1)
    own = np.ones_like(stored, dtype=bool)
    own[~free, 1:] = False
    return Blocks(
        magnitude[own],
        gaps,
        np.packbits(free, bitorder="little"),
        np.packbits(stored < 0, bitorder="little"),
        w.shape,
        block,
    )


def block_bytes(w: Array, block: tuple[int, int], *, value_bytes: int) -> dict[GapType, int]:
    """Bytes of the same by the gaps' type, without making it; empty where blocks do not fill it."""
    rows = w.shape[0] if w.ndim > 1 else 0
    if not w.size or not rows or rows % block[0] or (w.size // rows) % block[1]:
        return {}
    cut = _cut(w, block)
    index = np.flatnonzero(cut.any(1))
    alive = np.abs(cut[index])
    n_free = int(np.count_nonzero((alive != alive[:, :1]).any(1)))
    elements = cut.shape[1]
    distance = np.diff(index, prepend=-1) - 1
    found: dict[GapType, int] = {}
    for dtype in (np.uint8, np.uint16):
        n = max(1, len(index)) + int((distance // np.iinfo(dtype).max).sum())
        values = value_bytes * (n + (elements - 1) * n_free)
        found[dtype] = values + n * np.dtype(dtype).itemsize + -(-n // 8) + -(-n * elements // 8)
    return found


def choose_blocks(
    w: Array, *, below: int, values: type[np.float32 | np.float16] = np.float32
) -> Blocks | None:
    """The smallest form of a float32 weight in blocks of SHAPES; None where `below` bytes are less.

    `values` is the type that magnitudes are rounded to.
    """
    if w.dtype != np.float32 or w.size > MAX_ELEMENTS:
        return None
    value_bytes = np.dtype(values).itemsize
    sizes = {
        (block, dtype): n
        for block in SHAPES
        for dtype, n in block_bytes(w, block, value_bytes=value_bytes).items()
        if n < below
    }
    if not sizes:
        return None
    found = to_blocks(w, *min(sizes, key=sizes.__getitem__))
    return replace(found, values=found.values.astype(values, copy=False))


def _cut(w: Array, block: tuple[int, int]) -> npt.NDArray[np.float32]:
    """[blocks, elements] of a weight that they fill."""
    height, width = block
    matrix = np.asarray(w, np.float32).reshape(w.shape[0], -1)
    rows, columns = matrix.shape
    grid = matrix.reshape(rows // height, height, columns // width, width)
    return grid.transpose(0, 2, 1, 3).reshape(-1, height * width)
