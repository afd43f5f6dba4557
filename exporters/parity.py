"""Whether a packed file is the same network as its source: both run on the same made-up inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from fggp_deploy import kernels
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.generated_inputs import Array, Input, feeds, many_feeds
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.comparison import noise, parity_of
from fggp_deploy.graph.opset import standard_opset
from fggp_deploy.runtime.probing import first_that_runs, outputs_of
from fggp_deploy.runtime.sessions import SessionConfig

from .options import PackOptions
from .rounding import N_INPUTS, Rounding, rounding

_ONE_THREAD = SessionConfig(1)
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Parity:
    """How source and packed model compare; without `test`, `why_not` says why they were not run."""

    inputs: tuple[Input, ...] = ()
    test: SelfTest | None = None
    outputs: Outputs | None = None
    why_not: str = ""
    bit_equal: bool | None = None
    error: float | None = None
    kernels_error: float | None = None
    rounding: Rounding | None = None

    @property
    def ran(self) -> tuple[str, ...]:
        """Names and shapes of the inputs that both were run on."""
        return tuple(map(str, self.inputs)) if self.test is not None else ()


def compare_packed(source: Path, packed: ModelProto, options: PackOptions) -> Parity:
    """Run source and packed model on the same inputs.

    Raises ModelFileError if their outputs do not agree.
    """
    given = _ONE_THREAD.open(source, name=source.name)
    serialized: bytes = packed.SerializeToString()
    name = f"the packed {source.name}"
    sessions = {"stock onnxruntime": _ONE_THREAD.open(serialized, name=name)}
    inputs, want, why = first_that_runs(given, options.shape)
    if want is None:
        return Parity(why_not=why)
    generated = feeds(0, inputs)
    if not _equal(want, outputs_of(given, generated)):
        return Parity(inputs, why_not="its outputs for the same inputs differ each time")
    expected: Path | bytes = source
    changed = None
    if options.values != "fp32":  # the packed network is another one: compare it with itself
        expected = unpack(packed).SerializeToString()
        other = _ONE_THREAD.open(expected, name="the rounded network")
        want = outputs_of(other, generated)
        changed = _rounding(options.values, given, other, inputs)
    unoptimized = _Unoptimized(expected, source.name, generated)
    try:
        test = SelfTest.record(inputs, want, noise(want, unoptimized.outputs))
    except ModelFileError as e:
        return Parity(inputs, why_not=f"no self-test can be made: {e}")
    if kernels.library_path() is not None:
        sessions["the kernels"] = _ONE_THREAD.open(serialized, name=name, on_kernels=True)
    errors, equal = {}, {}
    for where, session in sessions.items():
        got = outputs_of(session, generated)
        equal[where] = _equal(want, got)
        found = parity_of(*_in_order(got, want), unoptimized=unoptimized)
        if not found.passed:
            raise ModelFileError(
                f"{source} gives other outputs when packed, {found.error:.1e} of the largest on "
                f"{where}; nothing was written"
            )
        errors[where] = found.error
    return Parity(
        inputs=inputs,
        test=test,
        outputs=want,
        bit_equal=equal["stock onnxruntime"],
        error=errors["stock onnxruntime"],
        kernels_error=errors.get("the kernels"),
        rounding=changed,
    )


def check_converted(
    source: Path, opset: int, converted: ModelProto, shape: Sequence[int] | None
) -> None:
    """Raise ModelFileError if raising the source from `opset` changed what it computes.

    A network that does not run on made-up inputs is not checked here.
    """
    given = _ONE_THREAD.open(source, name=source.name)
    inputs, want, _ = first_that_runs(given, shape)
    if want is None:
        return
    generated = feeds(0, inputs)
    if not _equal(want, outputs_of(given, generated)):
        return  # its outputs differ each time, which `compare_packed` reports
    new = standard_opset(converted)
    name = f"{source.name} in opset {new}"
    session = _ONE_THREAD.open(converted.SerializeToString(), name=name)
    found = parity_of(
        *_in_order(outputs_of(session, generated), want),
        unoptimized=_Unoptimized(source, source.name, generated),
    )
    if not found.passed:
        raise ModelFileError(
            f"ONNX's version converter changed {source} when it was raised from opset {opset} to "
            f"{new}: outputs differ by {found.error:.1e} of the largest; export the network again "
            f"with opset {new}, nothing was written"
        )


def run_self_test(path: Path) -> dict[str, bool]:
    """Whether a packed file passes its own self-test, on stock onnxruntime and on the kernels.

    Raises ModelFileError for a file that has none.
    """
    packed = SparseModel.open(path)
    test = packed.metadata.selftest
    if test is None:
        raise ModelFileError(f"{path} has no self-test of its outputs")
    passed = {}
    for where in ("stock", "kernels") if kernels.library_path() else ("stock",):
        session = _ONE_THREAD.open(packed.runnable(), name=path.name, on_kernels=where == "kernels")
        passed[where] = test.passes(test.outputs_of(partial(outputs_of, session)))
    return passed


@dataclass(frozen=True)
class _Unoptimized:
    """The outputs of a network without graph optimizations; it runs when they are asked for."""

    network: Path | bytes
    name: str
    feeds: Mapping[str, Array]

    @cached_property
    def outputs(self) -> Outputs:
        """The outputs by name."""
        session = _ONE_THREAD.open(self.network, name=self.name, optimize=False)
        return outputs_of(session, self.feeds)

    def __call__(self) -> list[Array]:
        return list(self.outputs.values())


def _rounding(
    values: str,
    exact: ort.InferenceSession,
    rounded: ort.InferenceSession,
    inputs: tuple[Input, ...],
) -> Rounding:
    return rounding(
        values,
        lambda feeds: list(outputs_of(exact, feeds).values()),
        lambda feeds: list(outputs_of(rounded, feeds).values()),
        many_feeds(inputs, N_INPUTS),
    )


def _equal(a: Outputs, b: Outputs) -> bool:
    return all(np.array_equal(y, b[n], equal_nan=y.dtype.kind == "f") for n, y in a.items())


def _in_order(got: Outputs, want: Outputs) -> tuple[list[Array], list[Array]]:
    """The outputs of both, in the order of `want`."""
    return [got[name] for name in want], list(want.values())
