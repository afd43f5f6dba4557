"""ONNX Runtime sessions with one set of options, on the kernels or without them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fggp_deploy import kernels
from fggp_deploy.common.confined import Limits, confined
from fggp_deploy.common.files import contains
from fggp_deploy.errors import ConfigError, ModelFileError, shortened

Array = npt.NDArray[Any]
PROVIDERS = ["CPUExecutionProvider"]
# The first two round the weights beside quantized activations to int8, and quantize values again.
# The third puts a linear layer on tokens between two Reshapes.
_NOT_OURS = ["WeightBiasQuantization", "QDQPropagationTransformer", "MatMulAddFusion"]
TRIAL_SECONDS = 60.0  # for a model's first run; the variable overrides it
_TRIAL_VARIABLE = "FGGP_TRIAL_SECONDS"


@dataclass(frozen=True)
class SessionConfig:
    """The caller's options, for every session that is opened.

    `threads` None leaves ONNX Runtime's default; `config` holds session configuration entries.
    """

    threads: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)

    def make(self) -> ort.SessionOptions:
        """The options in ONNX Runtime's form."""
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are raised, not printed
        options.inter_op_num_threads = 1
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        for key, value in self.config.items():
            options.add_session_config_entry(key, value)
        return options

    def open(
        self,
        model: Path | bytes,
        *,
        name: str = "the model",
        on_kernels: bool = False,
        profile: Path | None = None,
        optimized: Path | None = None,
        optimize: bool = True,
    ) -> ort.InferenceSession:
        """A session; `on_kernels` registers the library.

        `profile` is the prefix of its profile's file. `optimized` is a path for the model after the
        basic optimizations; no others are made then. `optimize=False` makes no graph optimization.
        Raises ModelFileError if onnxruntime cannot load the model.
        """
        options = self.make()
        try:
            if profile is not None:
                options.enable_profiling = True
                options.profile_file_prefix = str(profile)
            if optimized is not None:
                options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
                options.optimized_model_filepath = str(optimized)
            if not optimize:
                options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            if on_kernels:
                options.register_custom_ops_library(str(kernels.library_path()))
            source = model if isinstance(model, bytes) else with_data(model)
            off = _NOT_OURS if optimized is not None else []
            return ort.InferenceSession(
                source if isinstance(source, bytes) else str(source),
                options,
                providers=PROVIDERS,
                disabled_optimizers=off,
            )
        except ModelFileError:
            raise
        except Exception as e:  # onnxruntime's exceptions have no common base
            raise ModelFileError(f"onnxruntime cannot load {name}: {brief(e)}") from e


def with_data(model: Path) -> Path | bytes:
    """An ONNX file, or its content in one piece if it keeps tensors in data files beside it.

    ONNX Runtime would follow a file's own paths to its data. Raises ModelFileError.
    """
    if not contains(model, b"location"):
        return model
    from fggp_deploy.graph.reading import read_bytes

    return read_bytes(model)


def try_out(work: Callable[[], object], name: str) -> None:
    """Do `work`, which loads and runs a model of unknown origin, in a child process first.

    Raises ModelFileError if it raises that, crashes, needs more memory than is available, or takes
    longer than TRIAL_SECONDS; ConfigError if the environment variable is not a number.
    """

    def trial() -> bytes:
        work()
        return b""

    cure = f"; if it is really so slow, set {_TRIAL_VARIABLE} to more seconds"
    confined(trial, what=f"a first run of {name}", limits=Limits(_trial_seconds(), cure=cure))


def _trial_seconds() -> float:
    text = os.environ.get(_TRIAL_VARIABLE, str(TRIAL_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{_TRIAL_VARIABLE} must be a number of seconds, got {text!r:.40}")
    return seconds


def run(session: ort.InferenceSession, feeds: Mapping[str, Any], name: str) -> list[Array]:
    """All outputs; raises ModelFileError if the model does not run on these inputs."""
    try:
        return [np.asarray(y) for y in session.run(None, dict(feeds))]
    except Exception as e:  # onnxruntime's exceptions have no common base
        raise ModelFileError(f"{name} does not run: {brief(e)}") from e


def brief(e: Exception, *, limit: int = 160) -> str:
    """The first line of an onnxruntime error without its code, of at most `limit` characters."""
    line = (str(e).strip().splitlines() or [type(e).__name__])[0]
    line = line.removeprefix("[ONNXRuntimeError] : ").strip()
    return shortened(line, limit)
