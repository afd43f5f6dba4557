"""From a dense weight to its smallest encoding, in numpy alone.

A zero of either sign is a zero: −0.0 decodes as +0.0.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ConfigError
from fggp_deploy.format.encodings import MAX_ELEMENTS, Array, Bitmask, Coo, Csr, Floats, Gaps
from fggp_deploy.format.encodings.rice import LARGEST_SCALE, MAX_LOW_BITS, Rice

NODE_BYTES = 256  # about what names, shapes and the operator's node add to a packed weight
ENCODINGS = ("bitmask", "gaps8", "gaps16")  # what `choose` picks from, simplest decoder first


def to_gaps(w: Array, dtype: type[np.uint8 | np.uint16]) -> Gaps:
    """Encode a float32 weight of any shape; an all-zero weight becomes one explicit zero.

    >>> g = to_gaps(np.float32([0, 0, 5, 0, 0, 7]), np.uint8)
    >>> g.gaps.tolist(), g.values.tolist()
    ([3, 3], [5.0, 7.0])
    """
    flat, index = _entries(w)
    largest = int(np.iinfo(dtype).max)
    distance = np.diff(index, prepend=-1)
    bridges = (distance - 1) // largest  # zero-valued entries before each value
    at = np.cumsum(bridges + 1) - 1
    gaps = np.full(len(index) + int(bridges.sum()), largest, dtype)
    values = np.zeros(len(gaps), np.float32)
    gaps[at] = distance - largest * bridges
    values[at] = flat[index]
    return Gaps(values, gaps, w.shape)


def to_bitmask(w: Array) -> Bitmask:
    """Encode a float32 weight of any shape; an all-zero weight becomes one explicit zero."""
    flat, index = _entries(w)
    mask = np.zeros(flat.size, bool)
    mask[index] = True
    return Bitmask(flat[index], np.packbits(mask, bitorder="little"), w.shape)


def to_int8(w: Array, axis: int = 0) -> Rice:
    """Round a float32 weight to whole numbers of −127 to 127, a scale for each index of `axis`.

    Symmetric: a scale is the largest magnitude over 127, so zeros stay zero; magnitudes below half
    a scale become zero and are not stored. Scales are float16 where that type holds them in full
    precision, and are rounded before the weights are. Raises ConfigError for a weight that is not
    finite, or whose scale float32 does not hold in full precision.
    """
    w = np.asarray(w, np.float32)
    others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    if not np.isfinite(w).all():
        raise ConfigError("it holds NaN or infinity, which is no value for int8 with a scale")
    largest = np.abs(w).max(axis=others, keepdims=True)
    scales = np.where(largest == 0, np.float32(1), largest / np.float32(127))
    if not (scales <= LARGEST_SCALE).all():
        raise ConfigError(f"it holds {float(largest.max()):.3g}, too large for int8 with a scale")
    if (scales < np.finfo(np.float32).tiny).any():
        raise ConfigError("a channel holds nothing but numbers too small for int8 with a scale")
    half = np.finfo(np.float16)
    if ((scales >= half.tiny) & (scales <= half.max)).all():
        scales = scales.astype(np.float16)
    whole = np.rint(w / scales.astype(np.float32)).clip(-127, 127).astype(np.int8)
    return to_rice(whole, scales)


def to_rice(whole: Array, scales: Array | None = None) -> Rice:
    """Encode int8 numbers of any shape; all zeros become one explicit zero.

    >>> r = to_rice(np.int8([0, 0, 5, 0, 0, 7]))  # k = 1: 2 is 1·2 + 0
    >>> r.values.tolist(), r.high.tolist(), r.low.tolist()
    ([5, 7], [10], [[0]])
    """
    flat = np.ascontiguousarray(whole, np.int8).reshape(-1)
    index = np.flatnonzero(flat)
    if not len(index):
        index = np.zeros(1, np.int64)
    distance = np.diff(index, prepend=-1) - 1
    n = len(index)
    k = min(range(1, MAX_LOW_BITS + 1), key=lambda k: n * k + int((distance >> k).sum()))
    ends = np.cumsum((distance >> k) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, bool)
    unary[ends] = True
    bits = (distance >> np.arange(k)[:, None] & 1).astype(bool)
    high, low = (np.packbits(b, axis=-1, bitorder="little") for b in (unary, bits))
    return Rice(flat[index], scales, high, low, whole.shape)


def to_csr(w: Array) -> Csr:
    """Encode a float32 weight of two or more dimensions as CSR of [w.shape[0], −1]."""
    matrix = np.ascontiguousarray(w, np.float32).reshape(w.shape[0], -1)
    rows, columns = np.nonzero(matrix)
    indptr = np.zeros(w.shape[0] + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=w.shape[0]), out=indptr[1:])
    return Csr(matrix[rows, columns], columns.astype(np.int32), indptr, w.shape)


def to_coo(w: Array) -> Coo:
    """Encode a float32 weight of any shape as flat indices and values."""
    flat = np.ascontiguousarray(w, np.float32).reshape(-1)
    index = np.flatnonzero(flat)
    return Coo(flat[index], index.astype(np.int64), w.shape)


def choose(
    w: Array,
    *,
    encodings: Collection[str] = ENCODINGS,
    values: type[np.float32 | np.float16] = np.float32,
) -> Gaps | Bitmask | None:
    """The smallest of the named encodings of a float32 weight, or None where dense is no larger.

    NODE_BYTES is charged to every encoding but dense, so that packing never grows a weight. Ties
    go to the one named first in ENCODINGS. `values` is the type that values are rounded to; the
    caller has seen that they fit it.
    """
    if w.dtype != np.float32 or not 0 < w.size <= MAX_ELEMENTS:
        return None
    _, index = _entries(w)
    distance = np.diff(index, prepend=-1) - 1
    value_bytes = np.dtype(values).itemsize
    sizes = {
        "bitmask": value_bytes * len(index) + -(-w.size // 8),
        "gaps8": (value_bytes + 1) * (len(index) + int((distance // 255).sum())),
        "gaps16": (value_bytes + 2) * (len(index) + int((distance // 65535).sum())),
    }
    best = min((e for e in ENCODINGS if e in encodings), key=sizes.__getitem__, default=None)
    if best is None or sizes[best] + NODE_BYTES >= w.nbytes:
        return None
    packed: Gaps | Bitmask
    if best == "bitmask":
        packed = to_bitmask(w)
    else:
        packed = to_gaps(w, np.uint8 if best == "gaps8" else np.uint16)
    return replace(packed, values=packed.values.astype(values, copy=False))


def entropy_bound_bytes(w: Array) -> float:
    """Bytes that no lossless code can beat on average: log2 C(n, k) / 8 and 4 for each value.

    n is the number of weights and k of non-zeros; the positions are taken as uniformly random.

    >>> entropy_bound_bytes(np.float32([0, 1, 0, 0]))  # log2(4) bits and one float
    4.25
    """
    n, k = w.size, int(np.count_nonzero(w))
    nats = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return round(nats / math.log(2), 6) / 8 + 4 * k


def _entries(w: Array) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Flat values, and the indices to store: the non-zeros, or index 0 where there are none."""
    flat = np.ascontiguousarray(w, np.float32).reshape(-1)
    index = np.flatnonzero(flat)
    if not len(index):
        flat, index = np.zeros_like(flat), np.zeros(1, np.int64)
    return flat, index
