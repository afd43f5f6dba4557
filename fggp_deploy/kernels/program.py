"""A chain of layers in the form that the kernel library reads: integers and constant tensors.

The layout of the integers is that of `struct Step` in csrc/program/program.h.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError
from fggp_deploy.kernels import isa_index, load

CONV, MAX_POOL, AVERAGE_POOL, GLOBAL_AVERAGE, FLATTEN, GEMM, ADD, ROUND = range(1, 9)
GAPS, DENSE, RICE = 0, 1, 2
VERSION = 1
STEP_INTS = 25
REFERENCE = "reference"

Array = npt.NDArray[Any]
_ONNX_TYPES = ((np.float32, 1), (np.uint8, 2), (np.int8, 3), (np.uint16, 4), (np.float16, 10))
_TYPES = {np.dtype(t): n for t, n in _ONNX_TYPES}


@dataclass(frozen=True)
class Step:
    """One layer; values are numbered, the inputs first and then one for each step.

    `clip` is (low, high) applied last; `pads` is top, left, bottom, right; `variant` is the
    compiled block shape and the number of blocks of input channels, -1 for the cost model's.
    `unit`, of a Conv or an Add: the output is rounded to 0 to 255 times it; 0 for not at all. A
    Round does it with a zero point, which is its `constant`.
    """

    op: int
    input: int
    cout: int = 1
    cin: int = 1
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    group: int = 1
    residual: int = -1
    constant: int = 0
    weights: int = GAPS
    clip: tuple[float, float] | None = None
    count_padding: bool = False
    variant: tuple[int, int] = (-1, 1)
    unit: float = 0.0

    def ints(self) -> list[int]:
        """The step as the library reads it."""
        low, high = self.clip or (0.0, 0.0)
        return [
            *(self.op, self.input, self.residual, self.constant, self.weights),
            *(int(self.clip is not None), _bits(low), _bits(high)),
            *(self.cout, self.cin, self.group, *self.kernel, *self.strides, *self.dilations),
            *(*self.pads, int(self.count_padding), *self.variant, _bits(self.unit)),
        ]


def _bits(value: float) -> int:
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return int(bits)


def encode(steps: Sequence[Step], *, n_inputs: int, outputs: Sequence[int]) -> list[int]:
    """The integers of a whole program."""
    code = [VERSION, n_inputs, len(steps), len(outputs), *outputs]
    for step in steps:
        code += step.ints()
    return code


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("type", ctypes.c_int32),
    )


@dataclass
class Program:
    """A program in the library; raises ModelFileError when the library refuses it."""

    code: list[int]
    constants: list[Array]
    _handle: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        arrays = [np.ascontiguousarray(a) for a in self.constants]
        tensors = (_Tensor * len(arrays))(
            *(_Tensor(a.ctypes.data, a.size, _TYPES.get(a.dtype, 0)) for a in arrays)
        )
        try:
            code = np.array(self.code, np.int64)
        except OverflowError as e:  # sums of a file's attributes, as of pads
            raise ModelFileError("a number of the program does not fit 64 bits") from e
        error = ctypes.create_string_buffer(512)
        self._handle = (
            load().fggp_program_new(
                code.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_size_t(code.size),
                tensors,
                ctypes.c_size_t(len(arrays)),
                error,
                ctypes.c_size_t(512),
            )
            or 0
        )
        if not self._handle:
            raise ModelFileError(error.value.decode())

    def __del__(self) -> None:
        if self._handle:
            load().fggp_program_free(ctypes.c_void_p(self._handle))

    def run(self, inputs: Sequence[Array], *, isa: str, tasks: int = 1) -> list[Array]:
        """Run [n, C, H, W] or [n, C] inputs; `isa` may be `REFERENCE`."""
        arrays = [np.ascontiguousarray(a, np.float32) for a in inputs]
        n = arrays[0].shape[0]
        dims = _dims([a.shape[1:] for a in arrays])
        n_outputs = self.code[3]
        shapes = np.zeros((n_outputs, 4), np.int64)
        self._call("fggp_program_shapes", dims, shapes)
        outputs = [np.empty((n, *(s[1:2] if s[0] else s[1:])), np.float32) for s in shapes]
        self._call(
            "fggp_program_run",
            ctypes.c_int(-1 if isa == REFERENCE else isa_index(isa)),
            ctypes.c_int(tasks),
            dims,
            ctypes.c_int64(n),
            (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays)),
            (ctypes.c_void_p * n_outputs)(*(o.ctypes.data for o in outputs)),
        )
        return outputs

    def tune(
        self, shapes: Sequence[Sequence[int]], *, isa: str, seconds: float
    ) -> list[tuple[int, int]]:
        """Measure variants for inputs of these shapes (one image); one pair for each step."""
        variants = np.zeros((self.code[2], 2), np.int64)
        index = ctypes.c_int(isa_index(isa))
        self._call("fggp_program_tune", index, _dims(shapes), ctypes.c_double(seconds), variants)
        return [(int(a), int(b)) for a, b in variants]

    def profile(
        self, shapes: Sequence[Sequence[int]], *, isa: str, repeats: int
    ) -> npt.NDArray[np.float64]:
        """Median µs of each step on one thread for one image, then those of writing the outputs."""
        microseconds = np.zeros(self.code[2] + 1)
        index = ctypes.c_int(isa_index(isa))
        self._call(
            "fggp_program_profile", index, _dims(shapes), ctypes.c_int(repeats), microseconds
        )
        return microseconds

    def _call(self, name: str, *arguments: Any) -> None:
        error = ctypes.create_string_buffer(512)
        plain = [
            a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in arguments
        ]
        function = getattr(load(), name)
        if function(ctypes.c_void_p(self._handle), *plain, error, ctypes.c_size_t(512)):
            raise ModelFileError(error.value.decode())


def variant_shape(variant: int, *, isa: str) -> tuple[int, int, int]:
    """What a variant computes at once: output channels, rows and columns of vectors."""
    shape = np.zeros(3, np.int64)
    error = ctypes.create_string_buffer(512)
    if load().fggp_isa_variant_shape(
        ctypes.c_int(isa_index(isa)),
        ctypes.c_int(variant),
        shape.ctypes.data_as(ctypes.c_void_p),
        error,
        ctypes.c_size_t(512),
    ):
        raise ModelFileError(error.value.decode())
    group, rows, cols = (int(n) for n in shape)
    return group, rows, cols


def _dims(shapes: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    rows = [(0, *s) if len(s) == 3 else (1, s[0], 1, 1) for s in shapes]
    return np.array(rows, np.int64)
