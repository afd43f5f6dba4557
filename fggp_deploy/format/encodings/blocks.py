"""The encoding `blocks`: small blocks whose weights share one |w|, and the signs.

Networks trained with `--method unification` have such weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings.base import Operators, PackedEncoding, ValueType
from fggp_deploy.format.encodings.checks import (
    MAX_ELEMENTS,
    Array,
    check_bits,
    check_values,
    checked_size,
)
from fggp_deploy.format.encodings.gaps import GAP_TYPES, GapType, check_gaps, n_gaps, to_gaps
from fggp_deploy.format.encodings.nodes import (
    attribute_constant,
    constant,
    fill_value,
    shape_and_size,
)

BlockShape = tuple[int, int]

SHAPES: tuple[BlockShape, ...] = ((1, 4), (4, 1), (4, 4), (1, 8), (8, 1))  # that `encode` tries


@dataclass(frozen=True)
class Blocks(PackedEncoding):
    """Blocks of the weight as [shape[0], the rest], row by row of blocks; what is not stored is 0.

    Stored block i is number gaps[0] + … + gaps[i] − 1 of all blocks. It has `block` rows and
    columns, and its elements are stored row by row. If bit i of `free` is 0, all elements have the
    magnitude of the block's one value; if it is 1, each has its own. Bit i·(elements of a block) +
    j of `signs` says that element j is negative.

    `values` float32 or float16, as many as magnitudes; `gaps` uint8 or uint16 [n], every gap ≥ 1,
    n ≥ 1; `free` and `signs` uint8, the least significant bit first, none past the end. The blocks
    fill the weight. A distance too large for the type of gaps is bridged by blocks of value zero.
    Raises ModelFileError.
    """

    values: Array
    gaps: Array
    free: Array
    signs: Array
    shape: tuple[int, ...]
    block: tuple[int, ...]

    name: ClassVar[str] = "blocks"
    parts: ClassVar[tuple[str, ...]] = ("values", "gaps", "free", "signs")
    attributes: ClassVar[tuple[str, ...]] = ("block",)
    operators: ClassVar[Operators] = Operators("Unblock")
    must_save_its_definition: ClassVar[bool] = True

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
        check_bits("free", self.free, n)
        check_bits("signs", self.signs, n * self.elements)
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

    @classmethod
    def encode(cls, w: Array, *, values: ValueType = np.float32, output_axis: int = 0) -> Self:
        """Encode a float32 weight in the block shape and type of gaps that take fewest bytes.

        Requires a weight that one of SHAPES fills.
        """
        sizes = _sizes(w, values)
        return cls.encode_in(w, *min(sizes, key=sizes.__getitem__), values=values)

    @classmethod
    def encode_in(
        cls,
        w: Array,
        block: BlockShape,
        gap_type: GapType = np.uint8,
        *,
        values: ValueType = np.float32,
    ) -> Self:
        """Encode a float32 weight that blocks of this shape fill; a zero one keeps its first block.

        >>> b = Blocks.encode_in(np.float32([[0, 0, 2, -2], [3, 1, 0, 0]]), (1, 2))
        >>> b.gaps.tolist(), b.values.tolist(), b.free.tolist(), b.signs.tolist()
        ([2, 1], [2.0, 3.0, 1.0], [2], [2])
        """
        cut, index = _cut(w, block)
        gaps, ends = to_gaps(index, gap_type)
        stored = np.zeros((len(gaps), cut.shape[1]), np.float32)
        stored[ends] = cut[index]
        magnitude = np.abs(stored)
        free = _is_free(magnitude)
        own = np.ones_like(stored, dtype=bool)
        own[~free, 1:] = False
        return cls(
            magnitude[own].astype(values, copy=False),
            gaps,
            np.packbits(free, bitorder="little"),
            np.packbits(stored < 0, bitorder="little"),
            w.shape,
            block,
        )

    @classmethod
    def encoded_bytes(
        cls, w: Array, *, values: ValueType = np.float32, output_axis: int = 0
    ) -> int | None:
        """Bytes of all parts; None if none of SHAPES fills the weight."""
        return min(_sizes(w, values).values(), default=None)

    def decode(self) -> Array:
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
        """Magnitude of each element of the stored blocks, [n, elements]."""
        n = len(self.gaps)
        free = np.unpackbits(self.free, count=n, bitorder="little").astype(np.int64)
        width = 1 + free * (self.elements - 1)
        index = (np.cumsum(width) - width)[:, None] + free[:, None] * np.arange(self.elements)
        return np.asarray(self.values[index])

    @staticmethod
    def decoder_body() -> list[NodeProto]:
        """A matrix of blocks with signed magnitudes, on zeros; then the blocks in their places."""
        node = helper.make_node
        return [
            *shape_and_size(),
            attribute_constant("block", "block"),
            node("ReduceProd", ["block"], ["elements"], keepdims=1),
            constant("nil", np.array(0, np.int64)),
            constant("one", np.array(1, np.int64)),
            constant("column", np.array([-1, 1], np.int64)),
            constant("flat", np.array([-1], np.int64)),
            constant("begin", np.array([0], np.int64)),
            constant("second", np.array([1], np.int64)),
            constant("shifts", np.arange(8, dtype=np.uint8).reshape(1, 8)),
            constant("low_bit", np.array(1, np.uint8)),
            # place of each stored block among all, [n, 1]
            node("Cast", ["gaps"], ["distances"], to=TensorProto.INT64),
            node("CumSum", ["distances", "nil"], ["ends"]),
            node("Sub", ["ends", "one"], ["places"]),
            node("Reshape", ["places", "column"], ["rows"]),
            node("Shape", ["gaps"], ["n"]),
            # index of each element's value, [n, elements]
            *_bits("free", "n"),
            node("Cast", ["free_bits"], ["free_flags"], to=TensorProto.INT64),
            node("Sub", ["elements", "one"], ["others"]),
            node("Mul", ["free_flags", "others"], ["more"]),
            node("Add", ["more", "one"], ["widths"]),
            node("CumSum", ["widths", "nil"], ["ends_of_values"]),
            node("Sub", ["ends_of_values", "widths"], ["first"]),
            node("Reshape", ["first", "column"], ["first_column"]),
            node("Reshape", ["free_flags", "column"], ["free_column"]),
            node(
                "ConstantOfShape", ["elements"], ["ones"],
                value=fill_value(1, np.int64),
            ),
            node("CumSum", ["ones", "nil"], ["counts"], exclusive=1),
            node("Mul", ["free_column", "counts"], ["steps"]),
            node("Add", ["first_column", "steps"], ["index"]),
            node("Cast", ["values"], ["floats"], to=TensorProto.FLOAT),
            node("Gather", ["floats", "index"], ["magnitudes"], axis=0),
            # signs
            node("Mul", ["n", "elements"], ["n_signs"]),
            *_bits("signs", "n_signs"),
            node("Concat", ["flat", "elements"], ["by_block"], axis=0),
            node("Reshape", ["signs_bits", "by_block"], ["negative_bits"]),
            node("Cast", ["negative_bits"], ["negative"], to=TensorProto.BOOL),
            node("Neg", ["magnitudes"], ["negated"]),
            node("Where", ["negative", "negated", "magnitudes"], ["stored"]),
            # a matrix of all blocks, [blocks, elements]
            node("Div", ["size", "elements"], ["n_blocks"]),
            node("Concat", ["n_blocks", "elements"], ["all"], axis=0),
            node("ConstantOfShape", ["all"], ["zeros"]),
            node("ScatterND", ["zeros", "rows", "stored"], ["blocks"]),
            # the blocks in their places in the weight
            node("Slice", ["shape", "begin", "second"], ["height"]),
            node("Slice", ["block", "begin", "second"], ["block_height"]),
            node("Div", ["height", "block_height"], ["grid_height"]),
            node("Div", ["n_blocks", "grid_height"], ["grid_width"]),
            node("Concat", ["grid_height", "grid_width", "block"], ["grid"], axis=0),
            node("Reshape", ["blocks", "grid"], ["by_place"]),
            node("Transpose", ["by_place"], ["by_row"], perm=[0, 2, 1, 3]),
            node("Reshape", ["by_row", "shape"], ["W"]),
        ]  # fmt: skip


def block_bytes(w: Array, block: BlockShape, *, values: ValueType) -> dict[GapType, int]:
    """Bytes of `encode_in` by the type of gaps; empty if blocks of this shape do not fill it."""
    rows = w.shape[0] if w.ndim > 1 else 0
    if not w.size or not rows or rows % block[0] or (w.size // rows) % block[1]:
        return {}
    cut, index = _cut(w, block)
    elements = cut.shape[1]
    n_free = int(np.count_nonzero(_is_free(np.abs(cut[index]))))
    found: dict[GapType, int] = {}
    for gap_type in GAP_TYPES:
        n = n_gaps(index, gap_type)
        stored = np.dtype(values).itemsize * (n + (elements - 1) * n_free)
        found[gap_type] = (
            stored + n * np.dtype(gap_type).itemsize + -(-n // 8) + -(-n * elements // 8)
        )
    return found


def _sizes(w: Array, values: ValueType) -> dict[tuple[BlockShape, GapType], int]:
    return {
        (block, gap_type): n
        for block in SHAPES
        for gap_type, n in block_bytes(w, block, values=values).items()
    }


def _cut(w: Array, block: BlockShape) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """All blocks of a weight that they fill, [blocks, elements], and the indices to store."""
    height, width = block
    matrix = np.asarray(w, np.float32).reshape(w.shape[0], -1)
    rows, columns = matrix.shape
    grid = matrix.reshape(rows // height, height, columns // width, width)
    cut = grid.transpose(0, 2, 1, 3).reshape(-1, height * width)
    index = np.flatnonzero(cut.any(1))
    return cut, index if len(index) else np.zeros(1, np.int64)


def _is_free(magnitude: Array) -> npt.NDArray[np.bool_]:
    """Which blocks [n, elements] have magnitudes that differ."""
    return np.asarray((magnitude != magnitude[:, :1]).any(1))


def _bits(name: str, count: str) -> list[NodeProto]:
    """The first `count` bits of bytes, uint8 `NAME_bits`."""
    node = helper.make_node
    return [
        node("Reshape", [name, "column"], [f"{name}_bytes"]),
        node("BitShift", [f"{name}_bytes", "shifts"], [f"{name}_shifted"], direction="RIGHT"),
        node("BitwiseAnd", [f"{name}_shifted", "low_bit"], [f"{name}_by_byte"]),
        node("Reshape", [f"{name}_by_byte", "flat"], [f"{name}_padded"]),
        node("Slice", [f"{name}_padded", "begin", count], [f"{name}_bits"]),
    ]
