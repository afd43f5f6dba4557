"""The encoding `rice8`: int8 values, and their indices as a Rice code.

Source: R. F. Rice, "Some practical universal noiseless coding techniques", JPL 79-22, 1979.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.format.encodings.base import Operators, PackedEncoding, ValueType, entries
from fggp_deploy.format.encodings.checks import Array, checked_size
from fggp_deploy.format.encodings.nodes import constant, fill_value, shape_and_size

MAX_LOW_BITS = 16  # of a Rice code
LARGEST_SCALE = 1e36  # 128 times this is still a float32


@dataclass(frozen=True)
class RiceInt8(PackedEncoding):
    """An int8 weight, such as those of QDQ networks. Zeros are not stored.

    The distance of entry i from the one before (the first counts from −1) is q·2^k + r + 1.
    `high` uint8 is a string of bits, least significant of a byte first: for each entry q zeros and
    a one; at most seven zeros fill its last byte. `low` uint8 [k, ceil(n / 8)]: bit i of row j is
    bit j of r. `values` int8 [n], n ≥ 1, 1 ≤ k ≤ 16. Raises ModelFileError.
    """

    values: Array
    high: Array
    low: Array
    shape: tuple[int, ...]

    name: ClassVar[str] = "rice8"
    parts: ClassVar[tuple[str, ...]] = ("values", "high", "low")
    operators: ClassVar[Operators] = Operators("UnriceInt8")
    weight_type: ClassVar[type[np.float32 | np.int8]] = np.int8
    value_types: ClassVar[tuple[ValueType, ...]] = (np.int8,)

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
            raise ModelFileError("high has a byte behind its last entry")
        last = int(self._flat_index()[-1])
        if last >= size:
            raise ModelFileError(f"entries end at index {last}, past the weight's {size} elements")

    @classmethod
    def encode(cls, w: Array, *, values: ValueType = np.int8, output_axis: int = 0) -> Self:
        """Encode an int8 weight of any shape with the shortest code.

        >>> r = RiceInt8.encode(np.int8([0, 0, 5, 0, 0, 7]))  # k = 1: 2 is 1·2 + 0
        >>> r.values.tolist(), r.high.tolist(), r.low.tolist()
        ([5, 7], [10], [[0]])
        """
        return cls(**_code(w), shape=w.shape)

    def decode(self) -> Array:
        """The dense int8 weight of `shape`."""
        dense = np.zeros(math.prod(self.shape), np.int8)
        dense[self._flat_index()] = self.values
        return dense.reshape(self.shape)

    @staticmethod
    def decoder_body() -> list[NodeProto]:
        """W.flat[index] = values."""
        return _body(scaled=False)

    def _flat_index(self) -> npt.NDArray[np.int64]:
        n = self.values.size
        ends = np.flatnonzero(np.unpackbits(self.high, bitorder="little"))
        quotients = ends - np.arange(n)  # summed up to each entry
        bits = np.unpackbits(self.low, axis=1, count=n, bitorder="little")
        remainders = np.zeros(n, np.int64)
        for j, row in enumerate(bits):
            remainders += row.astype(np.int64) << j
        return (quotients << len(self.low)) + np.cumsum(remainders + 1) - 1


@dataclass(frozen=True)
class Rice(RiceInt8):
    """A float32 weight as int8 numbers times scales.

    `scales` are float32 or float16 of the weight's rank, each side 1 or the weight's, above 0 and
    at most LARGEST_SCALE. Raises ModelFileError.
    """

    scales: Array = field(kw_only=True)

    parts: ClassVar[tuple[str, ...]] = ("values", "scales", "high", "low")
    operators: ClassVar[Operators] = Operators("Unrice", "SparseConv8", "SparseGemm8")
    weight_type: ClassVar[type[np.float32 | np.int8]] = np.float32
    kernel_format: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        scales = self.scales
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

    @classmethod
    def encode(cls, w: Array, *, values: ValueType = np.int8, output_axis: int = 0) -> Self:
        """Round a float32 weight to −127 to 127 times a scale per index of `output_axis`.

        Symmetric: a scale is the largest magnitude over 127, so zeros stay zero. Magnitudes below
        half a scale become zero and are not stored. Raises ConfigError for a weight that is not
        finite, or whose scale float32 does not hold in full precision.
        """
        w = np.asarray(w, np.float32)
        scales = _scales(w, output_axis)
        whole = np.rint(w / scales.astype(np.float32)).clip(-127, 127).astype(np.int8)
        return cls(**_code(whole), shape=w.shape, scales=scales)

    @classmethod
    def for_kernels(cls, w: Array) -> Self | None:
        """The weight, if int8 numbers times scales are exactly what it holds."""
        for part in (w[:1], w):  # nearly all other weights fail in their first channel
            try:
                found = cls.encode(part)
            except ConfigError:
                return None
            if not np.array_equal(found.decode(), part):
                return None
        return found

    def decode(self) -> Array:
        """The dense float32 weight of `shape`."""
        return super().decode().astype(np.float32) * self.scales.astype(np.float32)

    @staticmethod
    def decoder_body() -> list[NodeProto]:
        """W.flat[index] = values, times the scales."""
        return _body(scaled=True)


def _scales(w: Array, output_axis: int) -> Array:
    """A scale per output channel, each side but that axis 1; raises ConfigError.

    Scales are float16 if that type holds all of them in full precision. They are rounded before the
    weights are.
    """
    if not np.isfinite(w).all():
        raise ConfigError("it holds NaN or infinity, which int8 cannot store")
    others = tuple(i for i in range(w.ndim) if i != output_axis % w.ndim)
    largest = np.abs(w).max(axis=others, keepdims=True)
    scales = np.where(largest == 0, np.float32(1), largest / np.float32(127))
    if not (scales <= LARGEST_SCALE).all():
        raise ConfigError(
            f"its largest value, {float(largest.max()):.3g}, needs a scale above {LARGEST_SCALE:g}"
        )
    if (scales < np.finfo(np.float32).tiny).any():
        raise ConfigError("all values of one channel are so small that its scale would underflow")
    half = np.finfo(np.float16)
    if ((scales >= half.tiny) & (scales <= half.max)).all():
        return scales.astype(np.float16)
    return scales


def _code(whole: Array) -> dict[str, Array]:
    """Values, high and low of int8 numbers, with the k that is shortest."""
    flat, index = entries(whole, np.int8)
    distance = np.diff(index, prepend=-1) - 1
    n = len(index)
    k = min(range(1, MAX_LOW_BITS + 1), key=lambda k: n * k + int((distance >> k).sum()))
    ends = np.cumsum((distance >> k) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, bool)
    unary[ends] = True
    bits = (distance >> np.arange(k)[:, None] & 1).astype(bool)
    high, low = (np.packbits(b, axis=-1, bitorder="little") for b in (unary, bits))
    return {"values": flat[index], "high": high, "low": low}


def _body(*, scaled: bool) -> list[NodeProto]:
    """W.flat[index] = values, times the scales; without `scaled` W is int8.

    Entry i lies at quotients[i]·2^k + Σ_{j ≤ i} (remainders[j] + 1) − 1. `quotients` counts the
    zeros of `high` up to its i-th one.
    """
    node = helper.make_node
    dtype, numbers, whole = (np.float32, "floats", "whole") if scaled else (np.int8, "values", "W")
    nodes = [
        *shape_and_size(),
        constant("shifts", np.arange(8, dtype=np.uint8).reshape(1, 8)),
        constant("low_bit", np.array(1, np.uint8)),
        constant("one", np.array(1, np.int32)),
        node("Constant", [], ["axis"], value_int=0),
        node("Constant", [], ["row"], value_ints=[-1]),
        node("Constant", [], ["start"], value_ints=[0]),
        node("Constant", [], ["unit"], value_ints=[1]),
        node("Shape", ["values"], ["count"]),
        # quotients: how many zeros stand before each one of `high`
        node("Constant", [], ["column"], value_ints=[-1, 1]),
        node("Reshape", ["high", "column"], ["high_bytes"]),
        node("BitShift", ["high_bytes", "shifts"], ["high_shifted"], direction="RIGHT"),
        node("BitwiseAnd", ["high_shifted", "low_bit"], ["high_by_byte"]),
        node("Reshape", ["high_by_byte", "row"], ["high_bits"]),
        node("Cast", ["high_bits"], ["stops"], to=TensorProto.INT32),
        node("CumSum", ["stops", "axis"], ["entry"], exclusive=1),
        node("Sub", ["one", "stops"], ["passes"]),
        node("CumSum", ["passes", "axis"], ["passed"]),
        node("Add", ["count", "unit"], ["count_and_padding"]),
        node(
            "ConstantOfShape", ["count_and_padding"], ["none_passed"], value=fill_value(0, np.int32)
        ),
        node(
            "ScatterElements",
            ["none_passed", "entry", "passed"],
            ["padded_quotients"],
            axis=0,
            reduction="max",
        ),
        node("Slice", ["padded_quotients", "start", "count"], ["quotients"]),
        # remainders: the rows of `low` times 1, 2, 4 …
        node("Shape", ["low"], ["low_shape"]),
        node("Slice", ["low_shape", "start", "unit"], ["k"]),
        node("ConstantOfShape", ["k"], ["ones"], value=fill_value(1, np.float32)),
        node("CumSum", ["ones", "axis"], ["exponents"], exclusive=1),
        node("Constant", [], ["two"], value_float=2.0),
        node("Pow", ["two", "exponents"], ["powers"]),
        node("Constant", [], ["low_column"], value_ints=[0, -1, 1]),
        node("Reshape", ["low", "low_column"], ["low_bytes"]),
        node("BitShift", ["low_bytes", "shifts"], ["low_shifted"], direction="RIGHT"),
        node("BitwiseAnd", ["low_shifted", "low_bit"], ["low_by_byte"]),
        node("Constant", [], ["low_rows"], value_ints=[0, -1]),
        node("Reshape", ["low_by_byte", "low_rows"], ["padded_low"]),
        node("Slice", ["padded_low", "start", "count", "unit"], ["low_bits"]),
        node("Cast", ["low_bits"], ["low_floats"], to=TensorProto.FLOAT),
        node("MatMul", ["powers", "low_floats"], ["remainder_floats"]),
        node("Cast", ["remainder_floats"], ["remainders"], to=TensorProto.INT32),
        # index: quotients times 2^k, and the remainders and ones summed up
        node("ReduceSum", ["powers"], ["most"], keepdims=1),
        node("Cast", ["most"], ["mask"], to=TensorProto.INT32),
        node("Add", ["mask", "one"], ["divisor"]),
        node("Mul", ["quotients", "divisor"], ["far"]),
        node("Add", ["remainders", "one"], ["steps"]),
        node("CumSum", ["steps", "axis"], ["near"]),
        node("Add", ["far", "near"], ["ends"]),
        node("Sub", ["ends", "one"], ["index"]),
        node("ConstantOfShape", ["size"], ["zeros"], value=fill_value(0, dtype)),
        node("ScatterElements", ["zeros", "index", numbers], ["flat"], axis=0),
        node("Reshape", ["flat", "shape"], [whole]),
    ]
    if scaled:
        nodes.insert(-2, node("Cast", ["values"], ["floats"], to=TensorProto.FLOAT))
        nodes.append(node("Cast", ["scales"], ["factors"], to=TensorProto.FLOAT))
        nodes.append(node("Mul", [whole, "factors"], ["W"]))
    return nodes
