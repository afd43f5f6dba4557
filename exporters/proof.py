"""Whether a packed file is the same network: both run side by side on made-up inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from fggp_deploy import kernels
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format import outputs_test
from fggp_deploy.format.outputs_test import Array, Input, OutputsTest
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.comparison import agreement, output_error
from fggp_deploy.graph.opset import standard_opset
from fggp_deploy.graph.reading import read_model
from fggp_deploy.runtime.probing import answers_of, first_that_runs
from fggp_deploy.runtime.sessions import Options

from .rounding import N_INPUTS, Rounding, rounding


@dataclass(frozen=True)
class Proof:
    """What running source and packed model side by side gave; `test` None where they do not run."""

    inputs: tuple[Input, ...] = ()
    test: OutputsTest | None = None
    outputs: Mapping[str, Array] | None = None
    why_not: str = ""
    bit_equal: bool | None = None
    error: float | None = None
    kernels_error: float | None = None
    rounding: Rounding | None = None

    @property
    def ran(self) -> tuple[str, ...]:
        """Names and shapes of the inputs."""
        if self.test is None:
            return ()
        return tuple(map(str, self.inputs))


def run_both(
    source: Path, packed: ModelProto, shape: Sequence[int] | None, *, values: str
) -> Proof:
    """Run source and packed model on the probe; raises ModelFileError where they disagree."""
    options = Options(1)
    given = options.open(source, name=source.name)
    serialized: bytes = packed.SerializeToString()
    name = f"the packed {source.name}"
    stock = options.open(serialized, name=name)
    inputs, want, why = first_that_runs(given, shape)
    if want is None:
        return Proof(why_not=why)
    feeds = outputs_test.feeds(0, inputs)
    if not _equal(want, answers_of(given, feeds)):
        return Proof(inputs, why_not="it answers the same inputs differently each time")
    expected: Path | bytes = source
    changed = None
    if values != "fp32":  # the packed network is another one: hold it against itself, unpacked
        expected = unpack(packed).SerializeToString()
        other = options.open(expected, name="the rounded network")
        want = answers_of(other, feeds)
        changed = rounding(
            values,
            lambda x: list(answers_of(given, x).values()),
            lambda x: list(answers_of(other, x).values()),
            outputs_test.many_feeds(inputs, N_INPUTS),
        )

    def unoptimized() -> list[Array]:
        plain = options.open(expected, name=source.name, optimize=False)
        return list(answers_of(plain, feeds).values())

    try:
        kept = _to_record(want, unoptimized)
        test = OutputsTest.record(inputs, lambda _: kept)
    except ModelFileError as e:
        return Proof(inputs, why_not=f"no self-test can be made: {e}")
    got = answers_of(stock, feeds)
    sessions = {"stock onnxruntime": stock}
    if kernels.library_path() is not None:
        sessions["the kernels"] = options.open(serialized, name=name, on_kernels=True)
    errors = {}
    for where, session in sessions.items():
        found = agreement(*_in_order(answers_of(session, feeds), want), unoptimized=unoptimized)
        if not found.passed:
            raise ModelFileError(
                f"{source} gives other outputs when packed, {found.error:.1e} of the largest on "
                f"{where}; nothing was written"
            )
        errors[where] = found.error
    equal = _equal(want, got)
    found_errors = errors["stock onnxruntime"], errors.get("the kernels")
    return Proof(inputs, test, want, "", equal, *found_errors, changed)


def check_converted(
    source: Path, opset: int, converted: ModelProto, shape: Sequence[int] | None
) -> None:
    """Raise ModelFileError if raising the source from `opset` changed what it computes.

    A network that does not run on made-up inputs is not checked here.
    """
    options = Options(1)
    given = options.open(source, name=source.name)
    inputs, want, _ = first_that_runs(given, shape)
    if want is None:
        return
    feeds = outputs_test.feeds(0, inputs)
    if not _equal(want, answers_of(given, feeds)):
        return  # it answers differently each time, which `run_both` reports

    def unoptimized() -> list[Array]:
        plain = options.open(source, name=source.name, optimize=False)
        return list(answers_of(plain, feeds).values())

    new = standard_opset(converted)
    raised = options.open(converted.SerializeToString(), name=f"{source.name} in opset {new}")
    found = agreement(*_in_order(answers_of(raised, feeds), want), unoptimized=unoptimized)
    if not found.passed:
        raise ModelFileError(
            f"ONNX's version converter changed {source} when it was raised from opset {opset} to "
            f"{new}: outputs differ by {found.error:.1e} of the largest; export the network again "
            f"with opset {new}, nothing was written"
        )


def _to_record(
    want: Mapping[str, Array], unoptimized: Callable[[], Sequence[Array]]
) -> dict[str, Array]:
    """The outputs that a self-test can hold other machines to.

    Integers that stock ONNX Runtime itself gives otherwise without graph optimisations, such as the
    order of nearly equal scores, are left out.
    """
    if all(y.dtype.kind == "f" for y in want.values()):
        return dict(want)
    again = unoptimized()
    return {
        name: y
        for (name, y), other in zip(want.items(), again, strict=True)
        if y.dtype.kind == "f" or output_error(other, y) == 0
    }


def _equal(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return all(np.array_equal(y, b[n], equal_nan=y.dtype.kind == "f") for n, y in a.items())


def _in_order(
    got: Mapping[str, Array], want: Mapping[str, Array]
) -> tuple[list[Array], list[Array]]:
    """The outputs of both, in the order of `want`."""
    return [got[name] for name in want], list(want.values())


def check_outputs(path: Path) -> dict[str, bool]:
    """Whether a packed file passes its own self-test, on stock onnxruntime and on the kernels.

    Raises ModelFileError for a file that has none.
    """
    model = read_model(path)
    test = next((p.value for p in model.metadata_props if p.key == outputs_test.KEY), None)
    if test is None:
        raise ModelFileError(f"{path} has no self-test of its outputs")
    read = OutputsTest.parse(test)
    passed = {}
    for where in ("stock", "kernels") if kernels.library_path() else ("stock",):
        session = Options(1).open(path, name=path.name, on_kernels=where == "kernels")
        passed[where] = read.passes(answers_of(session, read.feeds()))
    return passed
