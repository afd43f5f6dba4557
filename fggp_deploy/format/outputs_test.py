"""A self-test for any network: inputs from a seed, and some values of the outputs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.self_test import probe
from fggp_deploy.graph.comparison import (
    SELF_TEST_ATOL,
    SELF_TEST_INTEGER_SHARE,
    SELF_TEST_RTOL,
    tolerance_ratios,
)

Array = npt.NDArray[Any]
KEY = "fggp.outputs_test"  # in a model's metadata
MAX_ELEMENTS = 2**26  # of all inputs: 256 MiB
KEPT = 64  # values of an output
_TYPES = {"float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"}


@dataclass(frozen=True)
class Input:
    """An input of the graph: float of the probe in [−1, 1), whole numbers and booleans all 0."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in _TYPES:
            raise ModelFileError(f"a self-test's input {self.name!r:.60} is {self.dtype!r:.20}")
        if not all(isinstance(d, int) and 0 < d <= MAX_ELEMENTS for d in self.shape):
            raise ModelFileError(f"a self-test's input {self.name!r:.60} has shape {self.shape}")

    def __str__(self) -> str:
        """Its name and size for people, as `x 1×3×224×224`."""
        return f"{self.name} {'×'.join(map(str, self.shape))}".strip()


@dataclass(frozen=True)
class Output:
    """Values [n] of an output at flat indices `at`, evenly over its `shape`.

    Those of integer and boolean outputs are kept as floats.
    """

    name: str
    shape: tuple[int, ...]
    at: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        size = math.prod(self.shape)
        if not 0 < len(self.at) == len(self.values) <= KEPT or not all(
            isinstance(i, int) and 0 <= i < size for i in self.at
        ):
            raise ModelFileError(f"a self-test's output {self.name!r:.60} is damaged")
        if not np.isfinite(self.values).all():
            raise ModelFileError(f"a self-test's output {self.name!r:.60} holds NaN or inf")


@dataclass(frozen=True)
class OutputsTest:
    """The outputs for the inputs of `seed` when the file was made, with a SelfTest's tolerances.

    Raises ModelFileError for anything that cannot be a self-test.
    """

    seed: int
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    rtol: float = SELF_TEST_RTOL
    atol: float = SELF_TEST_ATOL

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32 or not (0 <= self.rtol < 1 and 0 <= self.atol < np.inf):
            raise ModelFileError("the self-test's seed or tolerances are out of range")
        if not self.outputs or sum(math.prod(i.shape) for i in self.inputs) > MAX_ELEMENTS:
            raise ModelFileError("the self-test has no outputs, or inputs that are too large")

    @classmethod
    def record(
        cls, inputs: Sequence[Input], run: Callable[[dict[str, Array]], Mapping[str, Array]]
    ) -> OutputsTest:
        """Keep the outputs of `run` for the probe; raises ModelFileError if one is not finite."""
        found = run(feeds(0, inputs))
        largest, outputs = 1.0, []
        for name, y in found.items():
            if y.dtype.kind not in "fiub" or not y.size:
                continue
            if y.dtype.kind == "f":
                largest = max(largest, float(np.abs(y).max()))
            at = np.unique(np.linspace(0, y.size - 1, min(y.size, KEPT)).astype(np.int64))
            values = tuple(float(f"{v:.9g}") for v in y.reshape(-1)[at].tolist())
            outputs.append(Output(name, y.shape, tuple(at.tolist()), values))
        return cls(0, tuple(inputs), tuple(outputs), atol=cls.atol * largest)

    def feeds(self) -> dict[str, Array]:
        """The inputs, by name."""
        return feeds(self.seed, self.inputs)

    def passes(self, found: Mapping[str, Array]) -> bool:
        """Whether every recorded value is within the tolerances; NaN never is.

        A small share of an integer output, such as a class per pixel, may differ.
        """
        for output in self.outputs:
            y = found.get(output.name)
            if y is None or y.shape != output.shape:
                return False
            got = y.reshape(-1)[np.asarray(output.at)].astype(np.float64)
            want = np.asarray(output.values)
            if y.dtype.kind != "f":
                if not np.mean(got != want) <= SELF_TEST_INTEGER_SHARE:
                    return False
            elif not (tolerance_ratios(got, want, rtol=self.rtol, atol=self.atol) <= 1).all():
                return False
        return True

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "seed": self.seed,
            "inputs": [{"name": i.name, "dtype": i.dtype, "shape": i.shape} for i in self.inputs],
            "outputs": [
                {"name": o.name, "shape": o.shape, "at": o.at, "values": o.values}
                for o in self.outputs
            ],
            "rtol": self.rtol,
            "atol": self.atol,
        }

    @classmethod
    def parse(cls, text: str) -> OutputsTest:
        """Read the JSON in a model's metadata; raises ModelFileError."""
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError) as e:
            raise ModelFileError(f"the self-test of the outputs is not JSON ({e})") from e

    @classmethod
    def from_dict(cls, d: Any) -> OutputsTest:
        """Read what `to_dict` wrote; raises ModelFileError on anything else."""
        try:
            inputs = [Input(str(i["name"]), i["dtype"], tuple(i["shape"])) for i in d["inputs"]]
            outputs = [
                Output(
                    str(o["name"]),
                    tuple(int(n) for n in o["shape"]),
                    tuple(o["at"]),
                    tuple(float(v) for v in o["values"]),
                )
                for o in d["outputs"]
            ]
            made = (int(d["seed"]), tuple(inputs), tuple(outputs))
            return cls(*made, float(d["rtol"]), float(d["atol"]))
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise ModelFileError(f"the self-test of the outputs is damaged ({e})") from e


def many_feeds(inputs: Sequence[Input], n: int) -> Iterator[dict[str, Array]]:
    """`feeds` of `n` seeds, whose sequences do not overlap."""
    size = sum(math.prod(i.shape) for i in inputs)
    return (feeds(k * size, inputs) for k in range(n))


def feeds(seed: int, inputs: Sequence[Input]) -> dict[str, Array]:
    """Floats from the probe of `seed`, one input after the other in one sequence; the rest 0."""
    made: dict[str, Array] = {}
    for i in inputs:
        dtype = np.dtype(i.dtype)
        if dtype.kind == "f":
            made[i.name] = probe(seed % 2**32, i.shape).astype(dtype)
            seed += math.prod(i.shape)
        else:
            made[i.name] = np.zeros(i.shape, dtype)
    return made
