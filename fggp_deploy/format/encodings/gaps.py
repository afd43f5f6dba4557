"""The encodings `gaps8` and `gaps16`: values, and the distance of each from the previous.

The kernels decode them in `kernels/csrc/program/weights.cpp`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings.base import Operators, PackedEncoding, ValueType, entries
from fggp_deploy.format.encodings.checks import Array, check_values, checked_size
from fggp_deploy.format.encodings.nodes import constant, shape_and_size

GapType = type[np.uint8 | np.uint16]
Indices = npt.NDArray[np.int64]

GAP_TYPES: tuple[GapType, ...] = (np.uint8, np.uint16)
# Above this share of non-zeros, gaps are no smaller than the dense weight.
DENSE_ABOVE = 0.7
# The kernels read gaps as single bytes, unless bridges lengthen the list by more than this.
MOST_BRIDGED = 1.2


@dataclass(frozen=True)
class Gaps(PackedEncoding):
    """Entry i has value `values[i]` at flat index gaps[0] + … + gaps[i] − 1; the rest is zero.

    `values` float32 or float16 [n], `gaps` uint8 or uint16 [n], every gap ≥ 1, n ≥ 1. A distance
    too large for the type is bridged by entries whose value is zero. Raises ModelFileError.
    """

    values: Array
    gaps: Array
    shape: tuple[int, ...]

    parts: ClassVar[tuple[str, ...]] = ("values", "gaps")
    operators: ClassVar[Operators] = Operators("Ungap", "SparseConv", "SparseGemm")
    kernel_format: ClassVar[int | None] = 0

    def __post_init__(self) -> None:
        size = checked_size(self.shape)
        check_values(self.values, size)
        if self.gaps.shape != self.values.shape:
            raise ModelFileError(f"{self.values.size} values but gaps of shape {self.gaps.shape}")
        check_gaps(self.gaps, size, "elements")

    @property
    def name(self) -> str:
        """`gaps8` or `gaps16`."""
        return "gaps8" if self.gaps.dtype == np.uint8 else "gaps16"

    @classmethod
    def encode(
        cls,
        w: Array,
        *,
        values: ValueType = np.float32,
        output_axis: int = 0,
        gap_type: GapType | None = None,
    ) -> Self:
        """Encode a float32 weight of any shape, with the type of gaps that takes fewer bytes.

        >>> g = Gaps.encode(np.float32([0, 0, 5, 0, 0, 7]))
        >>> g.gaps.tolist(), g.values.tolist()
        ([3, 3], [5.0, 7.0])
        """
        flat, index = entries(w)
        if gap_type is None:
            gap_type = min(GAP_TYPES, key=lambda g: _bytes(index, g, values))
        gaps, ends = to_gaps(index, gap_type)
        stored = np.zeros(len(gaps), values)
        stored[ends] = flat[index]
        return cls(stored, gaps, w.shape)

    @classmethod
    def encoded_bytes(
        cls, w: Array, *, values: ValueType = np.float32, output_axis: int = 0
    ) -> int:
        """Bytes of values and gaps."""
        _, index = entries(w)
        return min(_bytes(index, g, values) for g in GAP_TYPES)

    @classmethod
    def for_kernels(cls, w: Array) -> Self | None:
        """Single bytes as gaps unless that takes many bridges; None for a nearly dense weight."""
        nnz = np.count_nonzero(w)
        if nnz > DENSE_ABOVE * w.size:
            return None
        found = cls.encode(w, gap_type=np.uint8)
        if len(found.values) > MOST_BRIDGED * nnz:
            return cls.encode(w, gap_type=np.uint16)
        return found

    def decode(self) -> Array:
        """The dense float32 weight of `shape`."""
        dense = np.zeros(math.prod(self.shape), np.float32)
        dense[np.cumsum(self.gaps, dtype=np.int64) - 1] = self.values
        return dense.reshape(self.shape)

    @staticmethod
    def decoder_body() -> list[NodeProto]:
        """W.flat[cumsum(gaps) − 1] = values, on zeros."""
        node = helper.make_node
        return [
            *shape_and_size(),
            node("ConstantOfShape", ["size"], ["zeros"]),
            node("Cast", ["gaps"], ["distances"], to=TensorProto.INT32),
            node("Constant", [], ["axis"], value_int=0),
            node("CumSum", ["distances", "axis"], ["ends"]),
            constant("one", np.array(1, np.int32)),
            node("Sub", ["ends", "one"], ["index"]),
            node("Cast", ["values"], ["floats"], to=TensorProto.FLOAT),
            node("ScatterElements", ["zeros", "index", "floats"], ["flat"], axis=0),
            node("Reshape", ["flat", "shape"], ["W"]),
        ]


def to_gaps(index: Indices, gap_type: GapType) -> tuple[Array, Indices]:
    """Gaps that lead to rising indices, and which of the gaps end at one; the others are bridges.

    >>> gaps, ends = to_gaps(np.array([2, 302]), np.uint8)
    >>> gaps.tolist(), ends.tolist()
    ([3, 255, 45], [0, 2])
    """
    largest = int(np.iinfo(gap_type).max)
    distance = np.diff(index, prepend=-1)
    bridges = (distance - 1) // largest
    ends = np.cumsum(bridges + 1) - 1
    gaps = np.full(len(index) + int(bridges.sum()), largest, gap_type)
    gaps[ends] = distance - largest * bridges
    return gaps, ends


def n_gaps(index: Indices, gap_type: GapType) -> int:
    """How many gaps `to_gaps` makes."""
    bridges = (np.diff(index, prepend=-1) - 1) // int(np.iinfo(gap_type).max)
    return len(index) + int(bridges.sum())


def check_gaps(gaps: Array, size: int, what: str) -> None:
    """Raise ModelFileError unless there are gaps, of at least 1 each, that stay within `size`."""
    if gaps.dtype not in GAP_TYPES or gaps.ndim != 1 or not gaps.size:
        raise ModelFileError(
            f"gaps must be one-dimensional uint8 or uint16, got {gaps.dtype} {gaps.shape}"
        )
    if not gaps.all():
        raise ModelFileError("a gap is 0; every gap must be at least 1")
    last = int(gaps.sum(dtype=np.int64)) - 1
    if last >= size:
        raise ModelFileError(f"gaps end at index {last}, past the weight's {size} {what}")


def _bytes(index: Indices, gap_type: GapType, values: ValueType) -> int:
    return (np.dtype(values).itemsize + np.dtype(gap_type).itemsize) * n_gaps(index, gap_type)
