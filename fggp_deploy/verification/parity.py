"""Parity: whether two ways of running one network give the same logits.

The self-test, rounded values against fp32, and the packed file against its dense form. How near is
near enough is defined in `graph.comparison`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.graph.comparison import (
    ROUNDED_RTOL,
    RTOL,
    largest_difference,
    parity_of,
    scale,
    tolerance_ratios,
)
from fggp_deploy.graph.reading import reading
from fggp_deploy.measure import evaluate, network
from fggp_deploy.measure.network import Floats, Network
from fggp_deploy.verification.model_under_test import ModelUnderTest

N_PARITY = 256  # test images on which the packed and the dense form are compared


@dataclass(frozen=True)
class Difference:
    """How far logits are from the expected ones on `n` inputs.

    `max_rel` is `max_abs` over the largest expected |logit|. `max_ulp` is the largest number of
    float32 values between a logit and the expected one; it is large if both are nearly zero.
    `worst` is the largest ratio of a difference to its own tolerance, atol + rtol·|expected|, and
    passes up to 1. `top1_changed` counts inputs whose prediction differs.
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
        """Whether every logit is within its tolerance."""
        return self.worst <= 1


def difference(actual: Floats, expected: Floats, *, rtol: float, atol: float) -> Difference:
    """Compare logits [N, classes], each with its own tolerance, atol + rtol · |expected|.

    `rtol` and `atol` are those that a file records for its self-test, or what `near` found. Raises
    ModelFileError if the shapes differ or a logit is not finite. `comparison.parity_of` accepts NaN
    in the same place; here it is an error, since NaN logits predict no class in either network.
    """
    if actual.shape != expected.shape:
        raise ModelFileError(
            f"the network gives logits of shape {actual.shape}, but {expected.shape} are "
            "expected; the file is damaged or was edited, export it again"
        )
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        raise ModelFileError("logits to compare are NaN or infinite; export the model again")
    max_abs = largest_difference(actual, expected)
    worst = tolerance_ratios(actual, expected, rtol=rtol, atol=atol)
    return Difference(
        n=len(actual),
        bit_equal=actual.tobytes() == expected.tobytes(),
        max_abs=max_abs,
        max_rel=max_abs / scale(expected),
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
    """Compare the logits of two runs of one network; see `comparison.parity_of`.

    `expected` are those of stock ONNX Runtime; `unoptimized` returns its logits without graph
    optimizations.
    """
    run = None if unoptimized is None else lambda: [unoptimized()]
    found = parity_of([actual], [expected], rtol=rtol, unoptimized=run)
    return difference(actual, expected, rtol=0.0, atol=found.limit * scale(expected))


def self_test(under_test: ModelUnderTest) -> Difference | None:
    """Compare the model with the logits recorded at export; None if none were recorded."""
    test = under_test.metadata.selftest
    if test is None:
        return None
    return self_test_difference(test, under_test.network)


def self_test_difference(test: SelfTest, network: Network) -> Difference:
    """Compare a network with the logits of its self-test."""
    (output,) = test.outputs
    return difference(_logits(test, network), test.logits, rtol=test.rtol, atol=output.atol)


def _logits(test: SelfTest, network: Network) -> Floats:
    (y,) = test.outputs_of(network.outputs).values()
    return y


def rounding(under_test: ModelUnderTest) -> Difference | None:
    """Compare rounded values with the fp32 logits recorded at export; None if there are none.

    Whether the change by rounding is acceptable is for the user to judge, so the tolerance is wide.
    """
    test = under_test.metadata.unrounded
    if test is None:
        return None
    return near(_logits(test, under_test.network), test.logits, rtol=ROUNDED_RTOL)


def packed_against_dense(
    under_test: ModelUnderTest, *, threads: int, seed: int
) -> dict[str, Difference]:
    """Compare the packed file with its dense form on one runtime: name of the inputs → Difference.

    The inputs are the probe inputs and, if there is data, N_PARITY test images over all classes,
    chosen by `seed`.
    """
    name = f"the dense form of {under_test.network.name}"
    with reading(name):
        serialized = under_test.packed.dense().SerializeToString()
    dense = network.load(name, serialized, threads=threads)
    x = under_test.probe_inputs(seed)
    found = {"probe inputs": near(under_test.network.logits(x), dense.logits(x))}
    if under_test.data is not None:
        images = under_test.data.test.sample(N_PARITY, seed=seed)
        preprocessing = under_test.metadata.images
        found["test images"] = near(
            evaluate.logits(under_test.network, images, preprocessing),
            evaluate.logits(dense, images, preprocessing),
        )
    return found


def _position(y: Floats) -> npt.NDArray[np.int64]:
    """Each finite float32's rank among all of them; both zeros have rank 0."""
    bits = np.ascontiguousarray(y, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
