"""Runs of any network on generated inputs, whose types and sizes its graph declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.generated_inputs import MAX_ELEMENTS, Array, Input, feeds
from fggp_deploy.runtime.sessions import SessionConfig, brief, try_out

# The sizes that are tried for open dimensions, until the network runs.
SIDES = (64, 224, 512, 16)
_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16",
    "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}  # fmt: skip


def first_that_runs(
    session: ort.InferenceSession, shape: Sequence[int] | None
) -> tuple[tuple[Input, ...], dict[str, Array] | None, str]:
    """Inputs that the network accepts with its outputs, or why there are none.

    `shape` gives the dimensions of the first input after the first, if they are open.
    """
    why = ""
    for side in SIDES:
        try:
            inputs = _inputs(session, shape, side)
            if sum(i.size for i in inputs) > MAX_ELEMENTS:
                return (), None, "its inputs are too large"
            return inputs, outputs_of(session, feeds(0, inputs)), ""
        except ModelFileError as e:
            why = why or str(e)
        if all(isinstance(d, int) for i in session.get_inputs() for d in i.shape[1:]):
            break
    return (), None, why


def first_run_apart(model: Path | bytes, shape: Sequence[int] | None, *, name: str) -> None:
    """Load a network and run it as `first_that_runs` does, in a child process with limits.

    Call it before a file of unknown origin is run in this process; see `try_out`.
    """
    try_out(lambda: first_that_runs(SessionConfig(1).open(model, name=name), shape), name)


def open_sides(session: ort.InferenceSession, shape: Sequence[int]) -> str:
    """An error about sizes of the first input that neither it nor `shape` gives; "" if none.

    The first dimension is the batch and may be open.
    """
    inputs = session.get_inputs()
    if not inputs:
        return ""
    first = inputs[0]
    given = dict(enumerate(shape, start=1))
    unknown = [a for a, d in enumerate(first.shape) if a and not _known(d) and a not in given]
    if not unknown:
        return ""
    sides = ", ".join(str(d) if _known(d) else "?" for d in first.shape)
    return (
        f"the size of its input {first.name!r} is open, [{sides}]; give all sizes after the first "
        "with --shape, as --shape 3,224,224"
    )


def _known(side: object) -> bool:
    return isinstance(side, int) and side > 0


def _inputs(
    session: ort.InferenceSession, shape: Sequence[int] | None, side: int
) -> tuple[Input, ...]:
    found = []
    for k, value in enumerate(session.get_inputs()):
        if value.type not in _DTYPES:
            raise ModelFileError(f"its input {value.name!r} is {value.type}")
        given = dict(enumerate(shape or (), start=1)) if k == 0 else {}
        sides = []
        for axis, d in enumerate(value.shape):
            default = 1 if axis == 0 else side
            sides.append(d if _known(d) else given.get(axis, default))
        found.append(Input(value.name, _DTYPES[value.type], tuple(sides)))
    return tuple(found)


def outputs_of(
    session: ort.InferenceSession, feeds: Mapping[str, Array], name: str = "it"
) -> dict[str, Array]:
    """The outputs that are tensors of numbers, by name; ModelFileError if it does not run."""
    names = [o.name for o in session.get_outputs()]
    try:
        answers = session.run(names, dict(feeds))
    except Exception as e:  # onnxruntime's exceptions have no common base
        raise ModelFileError(f"{name} does not run on made-up inputs: {brief(e)}") from e
    found = {n: y for n, y in zip(names, answers, strict=True) if isinstance(y, np.ndarray)}
    return {n: y for n, y in found.items() if y.dtype.kind in "fiub"}
