"""Limits on the size of stored weights, and the checks that several encodings share.

Each check raises ModelFileError, so that no unchecked number of a hostile file is used as an index.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError

Array = npt.NDArray[Any]

MAX_ELEMENTS = 2**29  # of all weights: 2 GiB as float32, the most that a protobuf could hold dense


def checked_size(shape: tuple[int, ...]) -> int:
    """Number of elements; raises ModelFileError unless every side is ≥ 1 and the product fits."""
    if not 1 <= len(shape) <= 8 or any(d < 1 or d > MAX_ELEMENTS for d in shape):
        raise ModelFileError(f"a weight's shape must have 1 to 8 positive sides, got {shape}")
    size = math.prod(shape)
    if size > MAX_ELEMENTS:
        raise ModelFileError(f"a weight of shape {shape} exceeds {MAX_ELEMENTS} elements")
    return size


def check_values(values: Array, size: int) -> None:
    """Raise ModelFileError unless these are 1 to `size` floats."""
    if values.dtype not in (np.float32, np.float16) or values.ndim != 1:
        raise ModelFileError(
            f"values must be one-dimensional float32 or float16, got {values.dtype} {values.shape}"
        )
    if not 1 <= values.size <= size:
        raise ModelFileError(f"there must be 1 to {size} values, got {values.size}")


def check_bits(name: str, bits: Array, count: int) -> None:
    """Raise ModelFileError unless `bits` is uint8 [ceil(count / 8)] with no bit past the last."""
    if bits.dtype != np.uint8 or bits.shape != (-(-count // 8),):
        raise ModelFileError(
            f"{name} must be uint8 ({-(-count // 8)},), got {bits.dtype} {bits.shape}"
        )
    if count % 8 and int(bits[-1]) >> (count % 8):
        raise ModelFileError(f"{name} has bits past its {count}")
