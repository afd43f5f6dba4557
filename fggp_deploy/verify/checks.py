"""The checks of one file: every way to run it against the others, and where two part."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from fggp_deploy.errors import ModelFileError
from fggp_deploy.graph.comparison import ROUNDED_RTOL
from fggp_deploy.graph.reading import reading
from fggp_deploy.measure import evaluate
from fggp_deploy.measure.network import load
from fggp_deploy.verify import parity
from fggp_deploy.verify.locate import (
    Mismatch,
    expanded,
    first_difference,
    first_difference_on_kernels,
)
from fggp_deploy.verify.model_under_test import Subject, probe_inputs

N_PARITY = 256  # test images on which packed and dense are compared

# The names of these checks in the verdicts.
TORCH, KERNELS = "torch against stock", "kernels against stock"
COMPILED = "compiled file against stock"
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
    shape = subject.packed.metadata.preprocessing.input_shape
    y = test.answers(subject.model.logits, shape)
    expected = np.asarray(test.logits, np.float32)
    return parity.difference(y, expected, rtol=test.rtol, atol=test.atol)


def rounding(subject: Subject) -> parity.Difference | None:
    """Compare rounded values with the fp32 logits that export recorded; None where none are.

    What rounding may change is for its user to judge, so the tolerance is wide.
    """
    test = subject.packed.metadata.unrounded
    if test is None:
        return None
    shape = subject.packed.metadata.preprocessing.input_shape
    y = test.answers(subject.model.logits, shape)
    return parity.near(y, np.asarray(test.logits, np.float32), rtol=ROUNDED_RTOL)


def packed_against_dense(
    subject: Subject, *, threads: int, seed: int
) -> dict[str, parity.Difference]:
    """Compare the packed file with its dense form under one runtime: inputs' name → Difference.

    The inputs are the self-test's, or normal noise from `seed`, and some test images, chosen over
    all classes by `seed`.
    """
    meta = subject.packed.metadata
    x = probe_inputs(meta, seed)
    name = f"the dense form of {subject.model.name}"
    with reading(name):
        serialized = subject.packed.dense().SerializeToString()
    dense = load(name, serialized, threads=threads)
    found = {"probe inputs": parity.near(subject.model.logits(x), dense.logits(x))}
    if subject.data is not None:
        some = subject.data.test.sample(N_PARITY, seed=seed)
        found["test images"] = parity.near(
            evaluate.logits(subject.model, some, meta.preprocessing),
            evaluate.logits(dense, some, meta.preprocessing),
        )
    return found


def first_mismatch(
    subject: Subject, checks: Mapping[str, parity.Difference], trusted: Trusted, *, threads: int
) -> tuple[Mismatch | None, tuple[str, ...]]:
    """The first layer that differs where a check failed, and what a reader must know if none is.

    Packed against dense, kernels and compiled file against stock are compared with the file's own
    dense form; what fails its self-test, or differs from torch, needs the trusted network.
    """
    failed = [name for name, found in checks.items() if not found.passed]
    if not failed:
        return None, ()
    x = probe_inputs(subject.packed.metadata, seed=0)
    found: Mismatch | None = None
    missed: tuple[str, ...] = ()
    try:
        with reading(subject.packed.path.name):
            dense = subject.packed.dense()
            packed = onnx.ModelProto.FromString(subject.packed.runnable())
        if any(name.startswith("parity") for name in failed):
            found = first_difference(packed, dense, x, against="its own dense form")
        elif "self-test" in failed or TORCH in failed:
            if (network := trusted()) is None:
                return None, (UNTRUSTED,)
            found = first_difference(dense, network, x, against="the network it was made from")
        elif KERNELS in failed:
            found = first_difference_on_kernels(dense, x, threads=threads)
        elif COMPILED in failed and subject.compiled_file is not None:
            name = subject.compiled_file.name
            missed += (f"Remove {name} from the cache of plans; it is then compiled anew.",)
            with reading(name):
                compiled = onnx.load(subject.compiled_file)
            found = first_difference(expanded(compiled, dense), dense, x, against="this file")
    except ModelFileError as e:
        return None, (*missed, f"The layer that differs was not found: {e}.")
    return found, missed if found else (*missed, "No single layer differs beyond rounding.")
