"""A network on ONNX Runtime: any inputs and outputs by name, or images in and logits out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy import runtime
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.runtime.probing import outputs_of
from fggp_deploy.runtime.sessions import Array, SessionConfig, brief, try_out

Floats = npt.NDArray[np.float32]

# Every contender gets these settings, so that a ratio compares networks only. The thread pools of
# interleaved sessions would spin on each other's cores, so a pool stops spinning after its run.
SESSION_CONFIG = {"session.force_spinning_stop": "1"}


@dataclass(frozen=True)
class Network:
    """An ONNX Runtime session.

    Errors refer to it by `name`. `session` may be any object with the session's methods `run`,
    `get_inputs` and `get_outputs`.
    """

    name: str
    session: Any

    def outputs(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs that are tensors of numbers, by name; raises ModelFileError."""
        return outputs_of(self.session, feeds, self.name)

    def check_images(self) -> None:
        """Raise ModelFileError unless it has one image input and one output."""
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelFileError(
                f"{self.name} has {len(inputs)} inputs and {len(outputs)} outputs; "
                "accuracy needs one image input and one output of logits"
            )
        if inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise ModelFileError(
                f"{self.name} takes {inputs[0].type} {inputs[0].shape}; "
                "accuracy needs float32 [batch, channels, height, width]"
            )

    @property
    def input_name(self) -> str:
        """Name of the image input in the graph."""
        return str(self.session.get_inputs()[0].name)

    def logits(self, x: Floats) -> Floats:
        """Logits [N, classes] of x [N, C, H, W]; ModelFileError if one is not finite."""
        self.check_images()
        try:
            (y,) = self.session.run(None, {self.input_name: x})
        except Exception as e:  # onnxruntime's exceptions have no common base
            raise ModelFileError(f"{self.name} does not run on {x.shape}: {brief(e)}") from e
        y = np.asarray(y)
        if y.ndim != 2 or len(y) != len(x) or y.dtype != np.float32:
            raise ModelFileError(
                f"{self.name} gives {y.dtype} {y.shape} for {len(x)} images, not float32 "
                f"[{len(x)}, classes]; verify can judge only classifiers"
            )
        n_bad = int((~np.isfinite(y)).any(axis=1).sum())
        if n_bad:
            raise ModelFileError(
                f"{self.name} gives NaN or infinite logits for {n_bad} of {len(x)} inputs; its "
                "weights are damaged or overflow; export it again"
            )
        return y

    def runner(self, x: Floats) -> Callable[[], object]:
        """A function that only runs x [N, C, H, W], to be timed."""
        feed = {self.input_name: x}
        return lambda: self.session.run(None, feed)


def load(name: str, model: bytes | Path, *, threads: int, optimize: bool = True) -> Network:
    """Start a session on a file or on serialized bytes, on the CPU with `threads` threads.

    With `optimize` False the graph is not optimized. Raises ConfigError for a thread count below 1
    and ModelFileError for a model that cannot be loaded.
    """
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    session = SessionConfig(threads, SESSION_CONFIG).open(model, name=name, optimize=optimize)
    return Network(name, session)


def run_once_apart(name: str, model: bytes | Path, x: Floats) -> None:
    """Load a network and run it on x [N, C, H, W] in a child process with limits.

    Call it before running an untrusted file in this process; see `try_out`.
    """
    try_out(lambda: load(name, model, threads=1).logits(x), name)


def open_by_runtime(
    name: str,
    model: bytes | Path,
    *,
    threads: int,
    batch: int = 1,
    anew: bool = False,
    progress: Progress = silent,
) -> tuple[Network, str]:
    """Start `runtime.session`, on the kernels if they are faster; also returns `runtime.explain`.

    For a new model or machine this first plans for a few seconds, for `batch` images at once; the
    plan is cached. `anew` ignores the cache and times nothing: every layer that the kernels know is
    compiled for them.
    """
    session = runtime.session(
        model, threads=threads, batch=batch, measure=not anew, cache=not anew,
        config=SESSION_CONFIG, progress=progress,
    )  # fmt: skip
    return Network(name, session), runtime.explain(session)


def open_compiled(name: str, model: bytes | Path, *, threads: int) -> Network:
    """Start a session on a model with regions, on the kernels; raises ModelFileError."""
    return Network(
        name, SessionConfig(threads, SESSION_CONFIG).open(model, name=name, on_kernels=True)
    )
