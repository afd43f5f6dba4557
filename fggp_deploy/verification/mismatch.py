"""The first layer that differs, looked for after a parity check failed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.reading import reading
from fggp_deploy.verification.locate import (
    Mismatch,
    first_difference,
    first_difference_on_kernels,
)
from fggp_deploy.verification.model_under_test import ModelUnderTest
from fggp_deploy.verification.original import Original
from fggp_deploy.verification.parity import Difference

# The names of the parity checks, as the verdicts have them.
SELF_TEST, PARITY = "self-test", "parity on"
ROUNDING = "rounded values against fp32"
TORCH, KERNELS = "torch against stock", "kernels against stock"
COMPILED = "compiled file against stock"

NO_ORIGINAL = (
    "The layer that differs was not looked for: the checkpoint that the file was made from is not "
    "beside it and no --trusted network was given."
)


def first_mismatch(
    under_test: ModelUnderTest,
    checks: Mapping[str, Difference],
    original: Original | None,
    *,
    threads: int,
) -> tuple[Mismatch | None, tuple[str, ...]]:
    """The first layer that differs if one of `checks` failed, and notes for the reader.

    The packed file, the kernels and the compiled file are compared with the file's own dense form.
    If the self-test fails or torch differs, the trusted network is `original`.
    """
    failed = [name for name, found in checks.items() if not found.passed]
    if not failed:
        return None, ()
    # The cause that explains the others comes first.
    causes = (PARITY, SELF_TEST, TORCH, KERNELS, COMPILED)
    cause = next((c for c in causes if any(name.startswith(c) for name in failed)), "")
    notes: tuple[str, ...] = ()
    try:
        if cause in (SELF_TEST, TORCH):
            trusted = original.as_onnx() if original else None
            if trusted is None:
                return None, (NO_ORIGINAL,)
            found = _against_original(under_test, trusted)
        elif cause == COMPILED and (file := _compiled_file(under_test)) is not None:
            notes = (f"Remove {file.name} from the cache of plans; it is then compiled again.",)
            found = _compiled_against_dense(under_test, file)
        else:
            found = _against_dense(under_test, cause, threads)
    except ModelFileError as e:
        return None, (*notes, f"The layer that differs was not found: {e}.")
    return found, notes if found else (*notes, "No single layer differs beyond rounding.")


def _compiled_file(under_test: ModelUnderTest) -> Path | None:
    return under_test.kernels.file if under_test.kernels else None


def _against_original(under_test: ModelUnderTest, trusted: onnx.ModelProto) -> Mismatch | None:
    dense, x = _dense(under_test), under_test.probe_inputs(seed=0)
    return first_difference(dense, trusted, x, against="the network it was made from")


def _compiled_against_dense(under_test: ModelUnderTest, file: Path) -> Mismatch | None:
    dense, x = _dense(under_test), under_test.probe_inputs(seed=0)
    with reading(file.name):
        compiled = unpack(onnx.load(file))
    return first_difference(compiled, dense, x, against="this file")


def _against_dense(under_test: ModelUnderTest, cause: str, threads: int) -> Mismatch | None:
    """Compare the packed form or the kernels with the file's dense form."""
    dense, x = _dense(under_test), under_test.probe_inputs(seed=0)
    if cause == PARITY:
        with reading(under_test.packed.path.name):
            packed = onnx.ModelProto.FromString(under_test.packed.runnable())
        return first_difference(packed, dense, x, against="its own dense form")
    if cause == KERNELS:
        return first_difference_on_kernels(dense, x, threads=threads)
    return None


def _dense(under_test: ModelUnderTest) -> onnx.ModelProto:
    with reading(under_test.packed.path.name):
        return under_test.packed.dense()
