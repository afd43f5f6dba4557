"""The encoding `bitmask`: a bit per element, and the values of those whose bit is set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from onnx import NodeProto, TensorProto, helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings.base import Operators, PackedEncoding, ValueType, entries
from fggp_deploy.format.encodings.checks import Array, check_bits, check_values, checked_size
from fggp_deploy.format.encodings.nodes import constant, shape_and_size


@dataclass(frozen=True)
class Bitmask(PackedEncoding):
    """Bit i mod 8 (least significant first) of byte i div 8 says whether element i has a value.

    `values` float32 or float16 [n] in index order, `bits` uint8 [ceil(size / 8)] with n bits set
    and none past the last element, n ≥ 1. Raises ModelFileError.
    """

    values: Array
    bits: Array
    shape: tuple[int, ...]

    name: ClassVar[str] = "bitmask"
    parts: ClassVar[tuple[str, ...]] = ("values", "bits")
    operators: ClassVar[Operators] = Operators("Unmask")

    def __post_init__(self) -> None:
        size = checked_size(self.shape)
        check_values(self.values, size)
        check_bits("bits", self.bits, size)
        n_set = int(np.unpackbits(self.bits).sum(dtype=np.int64))
        if n_set != self.values.size:
            raise ModelFileError(f"{n_set} bits are set but there are {self.values.size} values")

    @classmethod
    def encode(cls, w: Array, *, values: ValueType = np.float32, output_axis: int = 0) -> Self:
        """Encode a float32 weight of any shape.

        >>> b = Bitmask.encode(np.float32([4, 0, 0, 0, 0, 0, 0, 5, 0, 6]))
        >>> b.bits.tolist(), b.values.tolist()
        ([129, 2], [4.0, 5.0, 6.0])
        """
        flat, index = entries(w)
        mask = np.zeros(flat.size, bool)
        mask[index] = True
        bits = np.packbits(mask, bitorder="little")
        return cls(flat[index].astype(values, copy=False), bits, w.shape)

    @classmethod
    def encoded_bytes(
        cls, w: Array, *, values: ValueType = np.float32, output_axis: int = 0
    ) -> int:
        """Bytes of values and bits."""
        n = max(1, int(np.count_nonzero(w)))
        return np.dtype(values).itemsize * n + -(-w.size // 8)

    def decode(self) -> Array:
        """The dense float32 weight of `shape`."""
        size = math.prod(self.shape)
        dense = np.zeros(size, np.float32)
        dense[np.unpackbits(self.bits, count=size, bitorder="little").view(bool)] = self.values
        return dense.reshape(self.shape)

    @staticmethod
    def decoder_body() -> list[NodeProto]:
        """W = Where(bit, Gather(values, max(cumsum(bit) − 1, 0)), 0); ORT does not fold NonZero."""
        node = helper.make_node
        return [
            *shape_and_size(),
            node("Constant", [], ["column"], value_ints=[-1, 1]),
            node("Reshape", ["bits", "column"], ["bytes"]),
            constant("shifts", np.arange(8, dtype=np.uint8).reshape(1, 8)),
            node("BitShift", ["bytes", "shifts"], ["shifted"], direction="RIGHT"),
            constant("low_bit", np.array(1, np.uint8)),
            node("BitwiseAnd", ["shifted", "low_bit"], ["by_byte"]),
            node("Constant", [], ["row"], value_ints=[-1]),
            node("Reshape", ["by_byte", "row"], ["padded"]),
            node("Constant", [], ["start"], value_ints=[0]),
            node("Slice", ["padded", "start", "size"], ["ones"]),
            node("Cast", ["ones"], ["counts"], to=TensorProto.INT32),
            node("Constant", [], ["axis"], value_int=0),
            node("CumSum", ["counts", "axis"], ["ends"]),
            constant("one", np.array(1, np.int32)),
            node("Sub", ["ends", "one"], ["before"]),
            constant("first", np.array(0, np.int32)),
            node("Max", ["before", "first"], ["index"]),
            node("Cast", ["values"], ["floats"], to=TensorProto.FLOAT),
            node("Gather", ["floats", "index"], ["gathered"], axis=0),
            node("Cast", ["ones"], ["kept"], to=TensorProto.BOOL),
            node("Constant", [], ["zero"], value_float=0.0),
            node("Where", ["kept", "gathered", "zero"], ["flat"]),
            node("Reshape", ["flat", "shape"], ["W"]),
        ]
