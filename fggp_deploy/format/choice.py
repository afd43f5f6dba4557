"""Chooses the smallest encoding of a dense weight."""

from __future__ import annotations

import math

import numpy as np

from fggp_deploy.format.encodings import ENCODINGS, PackedEncoding
from fggp_deploy.format.encodings.base import ValueType
from fggp_deploy.format.encodings.checks import MAX_ELEMENTS, Array

NODE_BYTES = 256  # about what names, shapes and the node of the operator add to a packed weight


def candidates(w: Array, values: ValueType) -> list[type[PackedEncoding]]:
    """The encodings that can hold a weight whose values are of that type."""
    if not 0 < w.size <= MAX_ELEMENTS:
        return []
    return [e for e in ENCODINGS if w.dtype == e.weight_type and values in e.value_types]


def choose(
    w: Array, *, values: ValueType = np.float32, output_axis: int = 0
) -> PackedEncoding | None:
    """The weight in its smallest encoding, or None if dense is no larger.

    NODE_BYTES is charged to every encoding but dense, so that packing never grows a weight. An
    encoding that must save its definition is not considered: that depends on the whole file. The
    caller has checked that the values fit into float16. Raises ConfigError for values that int8
    with a scale cannot hold.
    """
    sizes = {
        e: n
        for e in candidates(w, values)
        if not e.must_save_its_definition
        and (n := e.encoded_bytes(w, values=values, output_axis=output_axis)) is not None
    }
    best = min(sizes, key=sizes.__getitem__, default=None)
    if best is None or sizes[best] + NODE_BYTES >= w.nbytes:
        return None
    return best.encode(w, values=values, output_axis=output_axis)


def least_bytes(w: Array) -> int:
    """Bytes of a float32 or int8 weight in its smallest form, that of all encodings and dense."""
    values = np.int8 if w.dtype == np.int8 else np.float32
    sizes = (e.encoded_bytes(w, values=values) for e in candidates(w, values))
    return min([n for n in sizes if n is not None and n + NODE_BYTES < w.nbytes], default=w.nbytes)


def rounded_to_int8(w: Array, *, output_axis: int) -> Array:
    """A float32 weight as it decodes after its values were rounded to int8; raises ConfigError."""
    encoding = candidates(w, np.int8)[0]
    return encoding.encode(w, values=np.int8, output_axis=output_axis).decode()


def choose_for_kernels(w: Array, *, may_be_rounded: bool) -> PackedEncoding | None:
    """A float32 weight in the form in which the kernels read it; None if they read it dense.

    `may_be_rounded`: a weight that is exactly int8 numbers times scales is read as such, as after
    `--values int8`.
    """
    rounded = [e for e in ENCODINGS if np.float32 not in e.value_types]
    exact = [e for e in ENCODINGS if np.float32 in e.value_types]
    for encoding in (*rounded, *exact) if may_be_rounded else exact:
        if (packed := encoding.for_kernels(w)) is not None:
            return packed
    return None


def entropy_bound_bytes(w: Array) -> float:
    """Bytes that no lossless code can beat on average: log2 C(n, k) / 8 and 4 for each value.

    n is the number of weights and k of non-zeros; the positions are taken as uniformly random.

    >>> entropy_bound_bytes(np.float32([0, 1, 0, 0]))  # log2(4) bits and one float
    4.25
    """
    n, k = w.size, int(np.count_nonzero(w))
    nats = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return round(nats / math.log(2), 6) / 8 + 4 * k
