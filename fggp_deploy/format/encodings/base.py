"""The base classes of encodings: how a sparse weight is stored.

To add one, write one file with a subclass of `PackedEncoding` and list the class in
`encodings.ENCODINGS`. Packing, unpacking, the operators' definitions, regions and reports derive
everything they need from the class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings.checks import MAX_ELEMENTS, Array

ValueType = type[np.float32 | np.float16 | np.int8]
FLOATS: tuple[ValueType, ...] = (np.float32, np.float16)

FREE_ELEMENTS = 2**24  # elements to which any file may decode: 64 MiB
ELEMENTS_PER_BYTE = 1024  # elements per stored byte beyond that: a weight at 99.98% has 1,000


class Encoding(ABC):
    """A sparse weight in one encoding.

    A subclass is a frozen dataclass that checks itself when it is made and raises ModelFileError.
    Its fields are `parts`, the tensors that are stored, then `shape`, the dense weight's shape. The
    first part holds the values.
    """

    parts: ClassVar[tuple[str, ...]]
    weight_type: ClassVar[type[np.float32 | np.int8]] = np.float32  # of the dense weight
    shape: tuple[int, ...]

    @property
    @abstractmethod
    def name(self) -> str:
        """The encoding's name in docs/format.md and in reports."""

    @classmethod
    @abstractmethod
    def encode(cls, w: Array) -> Self:
        """Encode a dense weight. A zero of either sign is a zero: −0.0 decodes as +0.0."""

    @abstractmethod
    def decode(self) -> Array:
        """The dense weight of `shape`."""

    @property
    def arrays(self) -> dict[str, Array]:
        """The stored tensors by the names of the parts, in their order."""
        return {part: getattr(self, part) for part in self.parts}

    @property
    def nnz(self) -> int:
        """Number of non-zero weights."""
        return int(np.count_nonzero(getattr(self, self.parts[0])))

    @property
    def stored_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(int(a.nbytes) for a in self.arrays.values())


@dataclass(frozen=True)
class Operators:
    """Names of the `ai.fggp` operators that read an encoding.

    `decoder` makes the dense weight. `conv` and `gemm` are layers that read the packed weight
    directly; an encoding without such layers has None.
    """

    decoder: str
    conv: str | None = None
    gemm: str | None = None


class PackedEncoding(Encoding):
    """An encoding that a packed ONNX file may use: standard ONNX operators decode it.

    `attributes` names the fields, behind `shape`, that are attributes of the operators: tuples of
    integers. `value_types` are the types to which `encode` can round values. `kernel_format` is the
    number that kernel programs have for the encoding, None if the kernels do not read it. An
    encoding that `must_save_its_definition` is used only if all weights of a file together save
    more bytes than the definition of its decoder takes.
    """

    operators: ClassVar[Operators]
    attributes: ClassVar[tuple[str, ...]] = ()
    value_types: ClassVar[tuple[ValueType, ...]] = FLOATS
    kernel_format: ClassVar[int | None] = None
    must_save_its_definition: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def encode(cls, w: Array, *, values: ValueType = np.float32, output_axis: int = 0) -> Self:
        """Encode a weight of `weight_type`, its values rounded to one of `value_types`.

        `output_axis` is the axis of the output channels. The smallest form is chosen if there are
        several. An all-zero weight keeps one explicit zero. Raises ConfigError if the values cannot
        be rounded to that type; values too large for float16 are the caller's concern.
        """

    @classmethod
    def encoded_bytes(
        cls, w: Array, *, values: ValueType = np.float32, output_axis: int = 0
    ) -> int | None:
        """`stored_bytes` of what `encode` makes; None if the encoding cannot have this shape."""
        return cls.encode(w, values=values, output_axis=output_axis).stored_bytes

    @classmethod
    def for_kernels(cls, w: Array) -> Self | None:
        """The form in which the kernels read a float32 weight, exactly; None if they should not."""
        return None

    @property
    def attribute_values(self) -> dict[str, tuple[int, ...]]:
        """The operators' attributes but `weight_shape`."""
        return {name: getattr(self, name) for name in self.attributes}

    @staticmethod
    @abstractmethod
    def decoder_body() -> list[NodeProto]:
        """Standard ONNX operators that make `W` from the parts.

        Their inputs are named as the parts are. Constant nodes refer to the attributes
        `weight_shape` and those of `attributes`. The last node makes `W`. The body is part of the
        file format, node for node: see docs/format.md.
        """

    @classmethod
    def from_parts(
        cls,
        arrays: Mapping[str, Array],
        shape: tuple[int, ...],
        attributes: Mapping[str, tuple[int, ...]],
    ) -> Self:
        """The weight that a file stores in these parts; raises ModelFileError."""
        return cls(**arrays, shape=shape, **attributes)  # type: ignore[call-arg]


def check_expansion(weights: Iterable[Encoding]) -> None:
    """Raise ModelFileError for weights that decode to more than their stored bytes justify.

    Without this limit a small file could ask for gigabytes.
    """
    weights = list(weights)
    size = sum(math.prod(w.shape) for w in weights)
    n_bytes = sum(w.stored_bytes for w in weights)
    limit = min(MAX_ELEMENTS, FREE_ELEMENTS + ELEMENTS_PER_BYTE * n_bytes)
    if size > limit:
        raise ModelFileError(
            f"weights of {n_bytes:,} bytes decode to {size:,} elements, but only {limit:,} are "
            "allowed"
        )


def entries(
    w: Array, dtype: type[np.float32 | np.int8] = np.float32
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Flat values of a weight, and the indices to store: its non-zeros, or 0 if it has none."""
    flat = np.ascontiguousarray(w, dtype).reshape(-1)
    index = np.flatnonzero(flat)
    if not len(index):
        flat, index = np.zeros_like(flat), np.zeros(1, np.int64)
    return flat, index
