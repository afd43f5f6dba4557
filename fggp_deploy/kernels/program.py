"""Kernel programs: layers in the form that the kernel library reads and executes.

A program is a list of integers with constant tensors beside it. `Step` has the fields of one layer,
`Program` is a program in the library.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError
from fggp_deploy.kernels import isa_index, load

CONV, MAX_POOL, AVERAGE_POOL, GLOBAL_AVERAGE, FLATTEN, GEMM, ADD, ROUND = range(1, 9)
GAPS, DENSE, RICE = 0, 1, 2  # how a weight is stored
NONE, CLAMP = 0, 1  # kinds of activation
VERSION = 1
REFERENCE = "reference"

Array = npt.NDArray[Any]
Lend = Callable[[int, Callable[[int], None]], None]  # as in Program.run
_ONNX_TYPES = ((np.float32, 1), (np.uint8, 2), (np.int8, 3), (np.uint16, 4), (np.float16, 10))
_TYPES = {np.dtype(t): n for t, n in _ONNX_TYPES}


@dataclass(frozen=True)
class Activation:
    """What ends a layer. CLAMP limits values to `a` from below and to `b` from above."""

    kind: int = NONE
    a: float = 0.0
    b: float = 0.0


def clamp(low: float, high: float) -> Activation:
    """The activation of a Clip."""
    return Activation(CLAMP, low, high)


NO_ACTIVATION = Activation()
RELU = clamp(0.0, float("inf"))


@dataclass(frozen=True)
class Step:
    """One layer of a program.

    Values are numbered: the inputs of the program first, then the output of each step. `input` is
    the value that a step reads; `residual` is the value that a Conv, Gemm or Add adds before the
    activation, -1 for none. `constant` is the number of the first constant of a weight, which is
    stored in `format`; the bias follows it.

    A Conv or an Add with a `scale` quantizes its output to uint8, with zero point 0. A Round does
    only that, with its own `zero_point`. `pads` is top, left, bottom, right; `variant` is the
    compiled block shape and the number of blocks of input channels; a shape of -1 leaves the choice
    to the cost model.
    """

    op: int
    input: int = -1
    residual: int = -1
    constant: int = 0
    format: int = GAPS
    activation: Activation = NO_ACTIVATION
    cout: int = 1
    cin: int = 1
    group: int = 1
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    count_padding: bool = False
    variant: tuple[int, int] = (-1, 1)
    scale: float = 0.0
    zero_point: int = 0

    def ints(self) -> list[int]:
        """The step as the library reads it: the list of `visit_fields` in csrc/program/step.h."""
        activation = self.activation
        constant = self.zero_point if self.op == ROUND else self.constant  # they share an integer
        return [
            *(self.op, self.input, self.residual, constant, self.format),
            *(activation.kind, _bits(activation.a), _bits(activation.b)),
            *(self.cout, self.cin, self.group, *self.kernel, *self.strides, *self.dilations),
            *(*self.pads, int(self.count_padding), *self.variant, _bits(self.scale)),
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


_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)
_LEND = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, _WORK, ctypes.c_void_p)


@dataclass
class Program:
    """A program in the library; raises ModelFileError if the library refuses it."""

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

    def run(
        self, inputs: Sequence[Array], *, isa: str, threads: int = 1, lend: Lend | None = None
    ) -> list[Array]:
        """Run [n, C, H, W] or [n, C] inputs on an instruction set, or on the `REFERENCE`.

        Steps are divided for `threads` threads, which `lend` provides: `lend(n, work)` must call
        work(i) for every i below n, on any threads, and return when all calls have returned.
        """
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
            ctypes.c_int(threads),
            _callback(lend),
            dims,
            ctypes.c_int64(n),
            (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays)),
            (ctypes.c_void_p * n_outputs)(*(o.ctypes.data for o in outputs)),
        )
        return outputs

    def tune(
        self, shapes: Sequence[Sequence[int]], *, isa: str, seconds: float
    ) -> list[tuple[int, int]]:
        """The fastest variant of each step, measured on one image with inputs of these shapes."""
        variants = np.zeros((self.code[2], 2), np.int64)
        index = ctypes.c_int(isa_index(isa))
        self._call("fggp_program_tune", index, _dims(shapes), ctypes.c_double(seconds), variants)
        return [(int(a), int(b)) for a, b in variants]

    def profile(
        self, shapes: Sequence[Sequence[int]], *, isa: str, repeats: int
    ) -> npt.NDArray[np.float64]:
        """Median µs of each step for one image on one thread, and then of writing the outputs."""
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
    """What a variant computes at once: output channels, rows and columns of vectors.

    Raises ModelFileError if the instruction set has no such variant.
    """
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


def _callback(lend: Lend | None) -> Any:
    """`lend` for the library, or a null pointer."""
    if lend is None:
        return _LEND()
    return _LEND(lambda _, n, work, argument: lend(n, lambda i: work(argument, i)))


def _dims(shapes: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    rows = [(0, *s) if len(s) == 3 else (1, s[0], 1, 1) for s in shapes]
    return np.array(rows, np.int64)
