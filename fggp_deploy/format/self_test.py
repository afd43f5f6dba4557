"""The self-test of a classifier: inputs from a seed, and the logits that they must give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError
from fggp_deploy.graph.comparison import (
    BYTES_RTOL,
    SELF_TEST_ATOL,
    SELF_TEST_RTOL,
    tolerance_ratios,
)

Floats = npt.NDArray[np.float32]
MAX_BATCH = 64  # inputs of a self-test that are run at once


def fmix32(x: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """MurmurHash3's 32-bit finalizer, elementwise, modulo 2^32.

    >>> hex(fmix32(np.array([1], np.uint32))[0])
    '0x514e28b7'
    """
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def probe(seed: int, shape: tuple[int, ...], *, start: int = 0) -> Floats:
    """Float32 of `shape` in [−1, 1): element i is (fmix32(seed + i) >> 8) / 2^23 − 1, exactly.

    `start` is the i of the first element.
    """
    count = math.prod(shape)
    i = np.arange(start + seed, start + seed + count, dtype=np.uint64).astype(np.uint32)
    unit = (fmix32(i) >> np.uint32(8)).astype(np.float32) / np.float32(2**23)
    return (unit - np.float32(1)).reshape(shape)


@dataclass(frozen=True)
class SelfTest:
    """The logits float32 [batch, classes] that the probe of `seed` gave when the file was made.

    A machine passes if |got − logits| ≤ atol + rtol · |logits| for every logit. Raises
    ModelFileError for anything that cannot be a self-test.
    """

    seed: int
    logits: Floats
    rtol: float = SELF_TEST_RTOL
    atol: float = SELF_TEST_ATOL

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ModelFileError(f"the self-test's seed must be in 0..2^32-1, got {self.seed}")
        if self.logits.ndim != 2 or self.logits.dtype != np.float32 or not self.logits.size:
            raise ModelFileError("the self-test's logits must be float32 [batch, classes]")
        if not np.isfinite(self.logits).all():
            raise ModelFileError("the self-test's logits hold NaN or inf")
        if not (0 <= self.rtol < 1 and 0 <= self.atol < np.inf):
            raise ModelFileError(f"the self-test's tolerances are {self.rtol} and {self.atol}")

    @classmethod
    def record(
        cls,
        run: Callable[[Floats], npt.NDArray[Any]],
        input_shape: tuple[int, int, int],
        *,
        seed: int = 0,
        batch: int = 4,
        in_bytes: bool = False,
    ) -> SelfTest:
        """Probe `run` (float32 [batch, C, H, W] → [batch, classes]) and keep its logits.

        A sum in another order differs by roundings of the largest terms, so the tolerance grows
        with the largest logit. `in_bytes`: activations are quantized to int8.
        """
        logits = np.asarray(run(probe(seed, (batch, *input_shape))), np.float32)
        largest = float(np.abs(logits).max(initial=0))
        atol = BYTES_RTOL if in_bytes else cls.atol
        return cls(seed, logits, atol=atol * max(1.0, largest if np.isfinite(largest) else 1))

    def probe(self, input_shape: tuple[int, int, int]) -> Floats:
        """The inputs, float32 [batch, C, H, W], for an `input_shape` of (C, H, W)."""
        return probe(self.seed, (len(self.logits), *input_shape))

    def first_batch(self) -> SelfTest:
        """The same test of its first inputs only, for what must run them all at once."""
        return replace(self, logits=self.logits[:MAX_BATCH])

    def logits_of(
        self, run: Callable[[Floats], npt.NDArray[Any]], input_shape: tuple[int, int, int]
    ) -> npt.NDArray[Any]:
        """The logits of `run` (float32 [n, C, H, W] → [n, classes]) for all inputs.

        `run` gets at most MAX_BATCH of them at a time, since the file decides how many there are.
        """
        size, n = math.prod(input_shape), len(self.logits)
        return np.concatenate(
            [
                run(probe(self.seed, (min(MAX_BATCH, n - i), *input_shape), start=i * size))
                for i in range(0, n, MAX_BATCH)
            ]
        )

    def passes(self, got: npt.NDArray[Any]) -> bool:
        """Whether `got` [batch, classes] lies within the tolerances; NaN never does."""
        if got.shape != self.logits.shape:
            return False
        ratios = tolerance_ratios(got, self.logits, rtol=self.rtol, atol=self.atol)
        return bool((ratios <= 1).all())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a float32 survives as the double of the same value."""
        return {
            "seed": self.seed,
            "logits": self.logits.tolist(),
            "rtol": self.rtol,
            "atol": self.atol,
        }

    @classmethod
    def from_dict(cls, d: Any) -> SelfTest:
        """Read what `to_dict` wrote; raises ModelFileError on anything else."""
        try:
            logits = np.asarray(d["logits"], np.float32)
            return cls(int(d["seed"]), logits, float(d["rtol"]), float(d["atol"]))
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise ModelFileError(f"the self-test needs seed, logits, rtol and atol ({e})") from e
