"""The checks of one file: every way to run it against the others, and where two part."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from fggp_deploy.errors import ModelFileError
from fggp_deploy.onnx_reading import reading
from fggp_deploy.verify import accuracy, parity
from fggp_deploy.verify.localise import (
    Mismatch,
    first_difference,
    first_difference_on_kernels,
)
from fggp_deploy.verify.network import load
from fggp_deploy.verify.subject import Subject

N_PROBES = 8  # random inputs where the file brings no self-test
N_PARITY = 256  # test images on which packed and dense are compared

UNTRUSTED = (
    "The layer that differs was not looked for: the checkpoint that the file was made from is not "
    "beside it and no --trusted network was given."
)

Trusted = Callable[[], onnx.ModelProto | None]  # the network that a file ought to hold


def self_test(subject: Subject) -> parity.Difference | None:
    """Compare the model with the logits that were recorded at export; None where none were."""
    test = subject.packed.metadata.selftest
    if test is None:
        return None
    y = subject.model.logits(test.probe(subject.packed.metadata.preprocessing.input_shape))
    expected = np.asarray(test.logits, np.float32)
    return parity.difference(y, expected, rtol=test.rtol, atol=test.atol)


def rounding(subject: Subject) -> parity.Difference | None:
    """Compare fp16 values with the fp32 logits that export recorded; None without fp16 values.

    What rounding may change is for its user to judge, so the tolerances are wide: 5% of the
    largest logit.
    """
    test = subject.packed.metadata.unrounded
    if test is None:
        return None
    y = subject.model.logits(test.probe(subject.packed.metadata.preprocessing.input_shape))
    atol = 0.05 * float(np.abs(test.logits).max())
    return parity.difference(y, np.asarray(test.logits, np.float32), rtol=0.0, atol=atol)


def packed_against_dense(
    subject: Subject, *, threads: int, seed: int
) -> dict[str, parity.Difference]:
    """Compare the packed file with its dense form under one runtime: inputs' name → Difference.

    The inputs are the self-test's, or normal noise from `seed`, and the first test images.
    """
    meta = subject.packed.metadata
    shape = meta.preprocessing.input_shape
    rng = np.random.default_rng(seed)
    x = (
        meta.selftest.probe(shape)
        if meta.selftest is not None
        else rng.standard_normal((N_PROBES, *shape), dtype=np.float32)
    )
    name = f"the dense form of {subject.model.name}"
    with reading(name):
        serialized = subject.packed.dense().SerializeToString()
    dense = load(name, serialized, threads=threads)
    found = {"probe inputs": parity.difference(subject.model.logits(x), dense.logits(x))}
    if subject.data is not None:
        some = subject.data.test.first(N_PARITY)
        found["test images"] = parity.difference(
            accuracy.logits(subject.model, some, meta.preprocessing),
            accuracy.logits(dense, some, meta.preprocessing),
        )
    return found


def first_mismatch(
    subject: Subject, checks: Mapping[str, parity.Difference], trusted: Trusted, *, threads: int
) -> tuple[Mismatch | None, tuple[str, ...]]:
    """The first layer that differs where a check failed, and what a reader must know if none is.

    Packed against dense and kernels against stock are compared inside the file; what fails its
    self-test needs the trusted network.
    """
    failed = [name for name, found in checks.items() if not found.passed]
    if not failed:
        return None, ()
    meta = subject.packed.metadata
    shape = meta.preprocessing.input_shape
    x = (
        meta.selftest.probe(shape)
        if meta.selftest is not None
        else np.random.default_rng(0).standard_normal((N_PROBES, *shape), dtype=np.float32)
    )
    try:
        with reading(subject.packed.path.name):
            dense = subject.packed.dense()
            packed = onnx.ModelProto.FromString(subject.packed.runnable())
        if any(name.startswith("parity") for name in failed):
            found = first_difference(packed, dense, x, against="its own dense form")
        elif "self-test" in failed:
            if (network := trusted()) is None:
                return None, (UNTRUSTED,)
            found = first_difference(dense, network, x, against="the network it was made from")
        else:
            found = first_difference_on_kernels(dense, x, threads=threads)
    except ModelFileError as e:
        return None, (f"The layer that differs was not found: {e}.",)
    return found, () if found else ("No single layer differs beyond rounding.",)
