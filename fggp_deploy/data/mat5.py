"""Numeric arrays of a MATLAB level 5 .mat file, with every length checked before it is used.

SciPy's reader crashes on damaged files, so data that was downloaded does not go through it.
Format: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8",
           12: "<i8", 13: "<u8"}  # fmt: skip
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8",
            15: "u8"}  # fmt: skip
_MOST_ELEMENTS = 64  # of a file


def read_arrays(raw: bytes, *, most_bytes: int) -> Mapping[str, npt.NDArray[Any]]:
    """The real numeric arrays in `raw`, by name; other variables are left out.

    `most_bytes`: what all elements may have when unpacked. Raises ValueError for anything else
    than a little-endian level 5 file.
    """
    if len(raw) < _HEADER or raw[124:128] != b"\x00\x01IM":
        raise ValueError("the file has no little-endian MATLAB 5 header")
    found: dict[str, npt.NDArray[Any]] = {}
    left = most_bytes
    for k, (kind, content) in enumerate(_elements(memoryview(raw)[_HEADER:])):
        if k == _MOST_ELEMENTS:
            raise ValueError(f"more than {_MOST_ELEMENTS} variables")
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(content, left)
            left -= len(unpacked)
            if left <= 0:
                raise ValueError(f"more than {most_bytes:,} bytes when unpacked")
            kind, content = next(_elements(memoryview(unpacked)), (0, content))
        if kind == _MATRIX and (named := _matrix(content)) is not None:
            found[named[0]] = named[1]
    return found


def _elements(raw: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The type and the bytes of each element."""
    at = 0
    while at + 8 <= len(raw):
        kind, n_bytes = struct.unpack_from("<II", raw, at)
        start = at + 8
        if kind >> 16:  # up to four bytes are in the tag itself
            kind, n_bytes, start = kind & 0xFFFF, kind >> 16, at + 4
            if n_bytes > 4:
                raise ValueError(f"a small element of {n_bytes} bytes")
        if start + n_bytes > len(raw):
            raise ValueError(f"an element of {n_bytes:,} bytes, of which {len(raw) - start:,} are")
        yield kind, raw[start : start + n_bytes]
        end = start + n_bytes
        at = end if kind == _COMPRESSED else end + -end % 8


def _matrix(raw: memoryview) -> tuple[str, npt.NDArray[Any]] | None:
    """Name and content of an array of real numbers; None for what is something else."""
    parts = list(_elements(raw))
    if len(parts) != 4 or len(parts[0][1]) != 8:  # flags, shape, name, real part
        return None
    (_, flags), (_, dims), (_, name), (stored, content) = parts
    word = int.from_bytes(flags[:4], "little")
    dtype = _CLASSES.get(word & 0xFF)
    if dtype is None or stored not in _STORED or word & 0x0800:  # complex
        return None
    shape = tuple(np.frombuffer(dims, "<i4").tolist())
    values = np.frombuffer(content, _STORED[stored])
    if any(n < 0 for n in shape) or math.prod(shape) != values.size:
        raise ValueError(f"{values.size:,} numbers for an array of {shape}")
    return bytes(name).decode("ascii", "replace"), values.astype(dtype).reshape(shape, order="F")
