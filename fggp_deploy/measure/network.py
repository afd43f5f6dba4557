"""A network under stock onnxruntime: float32 [N, C, H, W] in, finite logits [N, classes] out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy import runtime
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.runtime.sessions import Options, brief, try_out

Floats = npt.NDArray[np.float32]

# What every contender gets, so that a ratio compares networks and not settings. The pools of two
# interleaved sessions would spin on each other's cores; so a pool stops spinning when its run ends.
SESSION_CONFIG = {"session.force_spinning_stop": "1"}


@dataclass(frozen=True)
class Network:
    """An onnxruntime session with one image input and one output of logits.

    `name` is what errors call it. Any object with the session's `run`, `get_inputs` and
    `get_outputs` will do, one that has custom kernels registered too.
    """

    name: str
    session: Any

    def __post_init__(self) -> None:
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelFileError(
                f"{self.name} has {len(inputs)} inputs and {len(outputs)} outputs; "
                "verify wants one image input and one output of logits"
            )
        if inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise ModelFileError(
                f"{self.name} takes {inputs[0].type} {inputs[0].shape}; "
                "verify wants float32 [batch, channels, height, width]"
            )

    @property
    def input_name(self) -> str:
        """Name of the image input in the graph."""
        return str(self.session.get_inputs()[0].name)

    def logits(self, x: Floats) -> Floats:
        """Logits [N, classes] of x [N, C, H, W]; ModelFileError where they are not finite."""
        try:
            (y,) = self.session.run(None, {self.input_name: x})
        except Exception as e:  # onnxruntime's exceptions have no common base
            raise ModelFileError(f"{self.name} does not run on {x.shape}: {brief(e)}") from e
        y = np.asarray(y)
        if y.ndim != 2 or len(y) != len(x) or y.dtype != np.float32:
            raise ModelFileError(
                f"{self.name} turned {len(x)} images into {y.dtype} {y.shape}, not float32 "
                f"[{len(x)}, classes]; it is not a classifier that verify can judge"
            )
        n_bad = int((~np.isfinite(y)).any(axis=1).sum())
        if n_bad:
            raise ModelFileError(
                f"{self.name} gives NaN or infinite logits for {n_bad} of {len(x)} inputs; "
                "its weights are damaged or overflow, export it again"
            )
        return y

    def runner(self, x: Floats) -> Callable[[], object]:
        """A call that runs x [N, C, H, W] and does nothing else, to be timed."""
        feed = {self.input_name: x}
        return lambda: self.session.run(None, feed)


def load(name: str, model: bytes | Path, *, threads: int, optimize: bool = True) -> Network:
    """Start a session on a file or on serialised bytes, on the CPU with `threads` threads.

    `optimize` False makes no graph optimisation.
    Raises ConfigError for a thread count below 1 and ModelFileError for what cannot be loaded.
    """
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    session = Options(threads, SESSION_CONFIG).open(model, name=name, optimize=optimize)
    return Network(name, session)


def run_once_apart(name: str, model: bytes | Path, x: Floats) -> None:
    """Load a network and run it on x [N, C, H, W] in a child process with limits.

    To be called before a file that nobody vouches for is run in this process; see `try_out`.
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
    """Start `runtime.session`, on the kernels where they are faster, and what it says of itself.

    The first time for a model and a machine this plans for some seconds, for `batch` images at
    once; the plan is cached. `anew` neither times nor reads what was kept: every layer that the
    kernels know is compiled for them now.
    """
    session = runtime.session(
        model, threads=threads, batch=batch, measure=not anew, cache=not anew,
        config=SESSION_CONFIG, progress=progress,
    )  # fmt: skip
    return Network(name, session), runtime.explain(session)


def open_compiled(name: str, file: Path, *, threads: int) -> Network:
    """Start a session on a file that `runtime.session` compiled; raises ModelFileError."""
    return Network(name, Options(threads, SESSION_CONFIG).open(file, name=name, on_kernels=True))
