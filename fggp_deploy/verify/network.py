"""A network under stock onnxruntime: float32 [N, C, H, W] in, finite logits [N, classes] out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fggp_deploy import kernels, runtime
from fggp_deploy.errors import ConfigError, ModelFileError

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


def load(name: str, model: bytes | Path, *, threads: int) -> Network:
    """Start a session on a file or on serialised bytes, on the CPU with `threads` threads.

    Raises ConfigError for a thread count below 1 and ModelFileError for what cannot be loaded.
    """
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, not printed
    for key, value in SESSION_CONFIG.items():
        options.add_session_config_entry(key, value)
    try:
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as e:  # onnxruntime's exceptions have no common base
        raise ModelFileError(f"onnxruntime cannot load {name}: {brief(e)}") from e
    return Network(name, session)


def load_on_kernels(name: str, model: bytes, *, threads: int) -> Network | None:
    """Start a session on the sparse kernels; None where they are missing or plain is as fast.

    The first time for a model and a machine this tunes for some seconds; the plan is cached.
    """
    if kernels.library_path() is None:
        return None
    session = runtime.session(model, threads=threads, config=SESSION_CONFIG)
    return Network(name, session) if runtime.uses_kernels(session) else None


def brief(e: Exception, *, limit: int = 160) -> str:
    """The first line of an onnxruntime error, without its code prefix, of at most `limit` signs."""
    line = (str(e).strip().splitlines() or [type(e).__name__])[0]
    line = line.removeprefix("[ONNXRuntimeError] : ").strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"
