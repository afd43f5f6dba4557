"""The self-test of a file: inputs from a seed, and the outputs that they must give.

It is made with the file and holds for any network: several inputs and outputs of any shape and
type. A classifier of images is one case, whose logits are recorded in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.generated_inputs import MAX_ELEMENTS, Array, Floats, Input, feeds
from fggp_deploy.graph.comparison import (
    SELF_TEST_INTEGER_SHARE,
    SELF_TEST_RTOL,
    logits_atol,
    recorded_atol,
    tolerance_ratios,
)

KEY = "fggp.selftest"  # in a model's metadata
OLD_KEY = "fggp.outputs_test"  # the same in older files of `pack`
MAX_BATCH = 64  # images of a classifier's self-test that are run at once
KEPT = 64  # values of an output
IMAGES, LOGITS = "input", "logits"  # the names of a classifier's input and output

Feeds = Mapping[str, Array]
Run = Callable[[Feeds], Mapping[str, Array]]


@dataclass(frozen=True)
class Output:
    """Values [n] of an output at flat indices `at` of its `shape`, or all if `at` is None.

    Those of integer and boolean outputs are kept as floats. A float value agrees if it differs by
    at most `atol` plus the test's rtol · |value|; a share of the integers may differ.
    """

    name: str
    shape: tuple[int, ...]
    at: tuple[int, ...] | None
    values: tuple[float, ...]
    atol: float

    def __post_init__(self) -> None:
        size = math.prod(self.shape)
        n = size if self.at is None else len(self.at)
        fits = n == len(self.values) and (n > 0) == (size > 0)
        if self.at is not None:
            fits &= n <= KEPT and all(isinstance(i, int) and 0 <= i < size for i in self.at)
        if not fits:
            raise ModelFileError(f"a self-test's output {self.name!r:.60} is damaged")
        if not np.isfinite(self.values).all():
            raise ModelFileError(f"a self-test's output {self.name!r:.60} holds NaN or inf")
        if not 0 <= self.atol < math.inf:
            raise ModelFileError(f"a self-test's tolerance is {self.atol}")

    def of(self, y: Array) -> npt.NDArray[np.float64]:
        """The values of `y`, an output of the same shape, that are recorded here."""
        flat = y.reshape(-1)
        return np.asarray(flat if self.at is None else flat[np.asarray(self.at)], np.float64)

    def agrees(self, y: Array, rtol: float) -> bool:
        """Whether every recorded value is within the tolerance; NaN never is."""
        if y.shape != self.shape:
            return False
        if y.dtype.kind != "f":
            n = int((self.of(y) != self.values).sum())
            return n <= SELF_TEST_INTEGER_SHARE * len(self.values)
        want = np.asarray(self.values)
        return bool((tolerance_ratios(self.of(y), want, rtol=rtol, atol=self.atol) <= 1).all())


@dataclass(frozen=True)
class SelfTest:
    """The outputs for the inputs of `seed` when the file was made.

    In a test of `rows`, every row of the only input is an input of its own, which gives the same
    row of the only output. Raises ModelFileError for anything that cannot be a self-test.
    """

    seed: int
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    rtol: float = SELF_TEST_RTOL
    rows: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32 or not 0 <= self.rtol < 1:
            raise ModelFileError(
                f"the self-test's seed is {self.seed} and its rtol {self.rtol}; they must be in "
                "0..2^32-1 and in [0, 1)"
            )
        if not self.outputs or sum(i.size for i in self.inputs) > MAX_ELEMENTS:
            raise ModelFileError(
                f"the self-test has no outputs, or inputs of more than {MAX_ELEMENTS:,} numbers"
            )

    @classmethod
    def record(
        cls, inputs: Sequence[Input], outputs: Mapping[str, Array], noise: Mapping[str, float]
    ) -> SelfTest:
        """Keep what a network gave for the inputs of seed 0, at most KEPT values of each output.

        `noise` is how far stock ONNX Runtime is from itself; see `comparison.noise`. Integers and
        shapes that have noise are left out, because no other machine can be expected to give them.
        Raises ModelFileError if an output is not finite or none is left.
        """
        kept = []
        for name, y in outputs.items():
            own = noise.get(name, 0.0)
            if math.isnan(own) or (y.dtype.kind != "f" and own):
                continue
            at = np.unique(np.linspace(0, y.size - 1, min(y.size, KEPT)).astype(np.int64))
            values = tuple(float(f"{v:.9g}") for v in y.reshape(-1)[at].tolist())
            atol = recorded_atol(y, own) if y.dtype.kind == "f" else 0.0
            kept.append(Output(name, y.shape, tuple(at.tolist()), values, atol))
        return cls(0, tuple(inputs), tuple(kept))

    @classmethod
    def of_logits(
        cls,
        seed: int,
        logits: npt.NDArray[Any],
        input_shape: tuple[int, int, int],
        *,
        rtol: float = SELF_TEST_RTOL,
        atol: float | None = None,
        in_bytes: bool = False,
    ) -> SelfTest:
        """The test of a classifier that gave float32 `logits` [batch, classes] for the probe.

        `input_shape` is (C, H, W) of its images. `in_bytes`: activations are quantized to int8.
        """
        if logits.ndim != 2 or logits.dtype != np.float32 or not logits.size:
            raise ModelFileError("the self-test's logits must be float32 [batch, classes]")
        if not np.isfinite(logits).all():
            raise ModelFileError("the self-test's logits hold NaN or inf")
        if atol is None:
            atol = logits_atol(logits, in_bytes=in_bytes)
        values = tuple(logits.reshape(-1).tolist())
        output = Output(LOGITS, logits.shape, None, values, atol)
        images = Input(IMAGES, "float32", (len(logits), *input_shape))
        return cls(seed, (images,), (output,), rtol, rows=True)

    @classmethod
    def of_classifier(
        cls,
        run: Callable[[Floats], npt.NDArray[Any]],
        input_shape: tuple[int, int, int],
        *,
        seed: int = 0,
        batch: int = 4,
        in_bytes: bool = False,
    ) -> SelfTest:
        """Probe `run` (float32 [batch, C, H, W] → [batch, classes]) and keep its logits."""
        images = Input(IMAGES, "float32", (batch, *input_shape))
        logits = np.asarray(run(images.values(seed)), np.float32)
        return cls.of_logits(seed, logits, input_shape, in_bytes=in_bytes)

    @property
    def logits(self) -> Floats:
        """The recorded logits [batch, classes] of a classifier's test."""
        (output,) = self.outputs
        return np.asarray(output.values, np.float32).reshape(output.shape)

    def feeds(self) -> dict[str, Array]:
        """The inputs, by name."""
        return feeds(self.seed, self.inputs)

    def images(self) -> Floats:
        """The only input of a classifier's test, [batch, C, H, W]."""
        (x,) = self.feeds().values()
        return x

    def named(self, inputs: Sequence[str], outputs: Sequence[str]) -> SelfTest:
        """A test of rows with the names that its graph has; any other test as it is."""
        if not (self.rows and len(inputs) == len(outputs) == 1):
            return self
        (i,), (o,) = self.inputs, self.outputs
        named = (replace(i, name=inputs[0]),), (replace(o, name=outputs[0]),)
        return replace(self, inputs=named[0], outputs=named[1])

    def first_batch(self) -> SelfTest:
        """A test of rows with its first MAX_BATCH rows only; any other test as it is."""
        return next(iter(self._pieces()))

    def outputs_of(self, run: Run) -> dict[str, Array]:
        """The outputs of `run` for all inputs.

        Of a test of rows, `run` gets at most MAX_BATCH at a time, since the file decides how many
        there are.
        """
        found = [run(piece.feeds()) for piece in self._pieces()]
        if len(found) == 1:
            return dict(found[0])
        return {name: np.concatenate([y[name] for y in found]) for name in found[0]}

    def passes(self, found: Mapping[str, Array]) -> bool:
        """Whether every recorded value is within the tolerances."""
        return all(self.passes_output(o, found) for o in self.outputs)

    def passes_output(self, output: Output, found: Mapping[str, Array]) -> bool:
        """Whether the recorded values of one of the outputs are within the tolerances."""
        return output.name in found and output.agrees(found[output.name], self.rtol)

    def _pieces(self) -> list[SelfTest]:
        (i, *_), (o, *_) = self.inputs or (None,), self.outputs
        if not self.rows or i is None or i.shape[0] <= MAX_BATCH:
            return [self]
        n, size, width = i.shape[0], math.prod(i.shape[1:]), o.shape[1]
        pieces = []
        for k in range(0, n, MAX_BATCH):
            m = min(MAX_BATCH, n - k)
            values = o.values[k * width : (k + m) * width]
            pieces.append(
                replace(
                    self,
                    seed=(self.seed + k * size) % 2**32,
                    inputs=(replace(i, shape=(m, *i.shape[1:])),),
                    outputs=(replace(o, shape=(m, width), values=values),),
                )
            )
        return pieces

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a float32 survives as the double of the same value."""
        if self.rows:
            return {
                "seed": self.seed,
                "logits": self.logits.tolist(),
                "rtol": self.rtol,
                "atol": self.outputs[0].atol,
            }
        return {
            "seed": self.seed,
            "inputs": [
                {"name": i.name, "dtype": i.dtype, "shape": i.shape}
                | ({} if i.range is None else {"range": i.range})
                for i in self.inputs
            ],
            "outputs": [
                {"name": o.name, "shape": o.shape, "at": o.at, "values": o.values, "atol": o.atol}
                for o in self.outputs
            ],
            "rtol": self.rtol,
        }

    @classmethod
    def from_dict(cls, d: Any, input_shape: tuple[int, int, int] | None = None) -> SelfTest:
        """Read what `to_dict` wrote; raises ModelFileError on anything else.

        `input_shape` is (C, H, W) of a classifier's images.
        """
        try:
            if input_shape is not None and "logits" in d:
                return cls.of_logits(
                    int(d["seed"]), np.asarray(d["logits"], np.float32), input_shape,
                    rtol=float(d["rtol"]), atol=float(d["atol"]),
                )  # fmt: skip
            inputs = [_input(i) for i in d["inputs"]]
            outputs = [_output(o, d.get("atol")) for o in d["outputs"]]
            return cls(int(d["seed"]), tuple(inputs), tuple(outputs), float(d["rtol"]))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as e:
            raise ModelFileError(f"the self-test is damaged ({type(e).__name__}: {e})") from e


def _input(d: Any) -> Input:
    given = d.get("range")
    if given is not None:
        low, high = given
        given = (float(low), float(high))
    return Input(str(d["name"]), str(d["dtype"]), tuple(d["shape"]), given)


def _output(d: Any, atol: Any) -> Output:
    """`atol` is the tolerance of all outputs, as older files have it."""
    return Output(
        str(d["name"]),
        tuple(int(n) for n in d["shape"]),
        None if d["at"] is None else tuple(d["at"]),
        tuple(float(v) for v in d["values"]),
        float(d.get("atol", atol)),
    )
