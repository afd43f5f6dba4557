"""Whether two ways to compute the same network agree: the self-test, and packed against dense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError
from fggp_deploy.graph.comparison import RTOL, agreement, scale
from fggp_deploy.measure.network import Floats


@dataclass(frozen=True)
class Difference:
    """How far logits are from the expected ones on `n` inputs.

    `max_rel` is `max_abs` over the largest expected |logit|; `max_ulp` the most float32 numbers
    that lie between a logit and the expected one, large where both are nearly zero. `worst` is the
    largest difference over its own tolerance, atol + rtol·|expected|: it passes up to 1.
    `top1_changed` counts inputs.
    """

    n: int
    bit_equal: bool
    max_abs: float
    max_rel: float
    max_ulp: int
    top1_changed: int
    rtol: float
    atol: float
    worst: float

    @property
    def passed(self) -> bool:
        """True where every logit is within its tolerance."""
        return self.worst <= 1


def difference(actual: Floats, expected: Floats, *, rtol: float, atol: float) -> Difference:
    """Compare logits [N, classes]; ModelFileError where the shapes differ or one is not finite."""
    if actual.shape != expected.shape:
        raise ModelFileError(
            f"the network gives logits of shape {actual.shape} where {expected.shape} are "
            "expected; the file is damaged or was edited, export it again"
        )
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        raise ModelFileError("logits to compare are NaN or infinite; export the model again")
    gap = np.abs(actual.astype(np.float64) - expected)
    size = np.abs(expected).astype(np.float64)
    max_abs, largest = float(gap.max(initial=0)), float(size.max(initial=0))
    with np.errstate(divide="ignore"):  # without any tolerance, every difference is infinitely bad
        worst = np.divide(gap, atol + rtol * size, out=np.zeros_like(gap), where=gap > 0)
    return Difference(
        n=len(actual),
        bit_equal=actual.tobytes() == expected.tobytes(),
        max_abs=max_abs,
        max_rel=max_abs / largest if largest else max_abs,
        max_ulp=int(np.abs(_position(actual) - _position(expected)).max(initial=0)),
        top1_changed=int((actual.argmax(1) != expected.argmax(1)).sum()),
        rtol=rtol,
        atol=atol,
        worst=min(float(worst.max(initial=0)), float(np.finfo(np.float64).max)),
    )


def near(
    actual: Floats,
    expected: Floats,
    *,
    rtol: float = RTOL,
    unoptimized: Callable[[], Floats] | None = None,
) -> Difference:
    """Compare the logits of two runs of one network; see `comparison.agreement`.

    `expected` are stock ONNX Runtime's, `unoptimized` returns its logits without graph
    optimisations.
    """
    run = None if unoptimized is None else lambda: [unoptimized()]
    found = agreement([actual], [expected], rtol=rtol, unoptimized=run)
    return difference(actual, expected, rtol=0.0, atol=found.limit * scale(expected))


def _position(y: Floats) -> npt.NDArray[np.int64]:
    """Each finite float32's rank among all of them; both zeros have rank 0."""
    bits = np.ascontiguousarray(y, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
