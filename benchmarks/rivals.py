"""Other runtimes than ONNX Runtime, opened on a dense ONNX file if they are installed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]
Opener = Callable[[], Run]  # loads a network, and returns what runs it once and returns its output


def openvino(dense: Path, x: Any, threads: int) -> Opener:
    """OpenVINO in fp32, tuned for latency. By default it computes in bf16 if the CPU can."""
    import openvino as ov

    core = ov.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }

    def open_() -> Run:
        network = core.read_model(str(dense))
        network.reshape(list(x.shape))
        request = core.compile_model(network, "CPU", options).create_infer_request()
        return lambda: next(iter(request.infer([x]).values()))

    return open_


def mnn(dense: Path, x: Any, threads: int) -> Opener:
    """MNN in fp32. Its converter decides which layers use its sparse kernels."""
    with _silent():
        import MNN
    converted = _converted(dense)

    def tensor(values: Any) -> Any:
        kind = MNN.Tensor_DimensionType_Caffe
        return MNN.Tensor(values.shape, MNN.Halide_Type_Float, values, kind)

    def open_() -> Run:
        with _silent():
            network = MNN.Interpreter(str(converted))
            how = {"backend": "CPU", "numThread": threads, "precision": "high"}
            session = network.createSession(how)
            network.resizeTensor(network.getSessionInput(session), x.shape)
            network.resizeSession(session)
        given, made = network.getSessionInput(session), network.getSessionOutput(session)
        image, result = tensor(x), tensor(np.zeros(made.getShape(), np.float32))

        def run() -> Any:
            given.copyFrom(image)
            network.runSession(session)
            made.copyToHostTensor(result)
            return np.array(result.getNumpyData()).reshape(made.getShape())

        return run

    return open_


def _converted(dense: Path) -> Path:
    """The file for MNN beside the ONNX file, which is made if it does not exist."""
    import _tools as converter  # not MNN.tools, which installs a package when it is imported

    made = dense.with_suffix(".mnn")
    if not made.exists():
        files = ["--modelFile", str(dense), "--MNNModel", str(made)]
        with _silent():
            converter.mnnconvert(
                ["mnnconvert", "-f", "ONNX", *files, "--bizCode", "x", "--detectSparseSpeedUp"]
            )
    return made


_RIVALS = {"openvino": ("openvino", openvino), "mnn": ("MNN", mnn)}  # the module, and its opener


@cache
def rivals() -> dict[str, Callable[[Path, Any, int], Opener]]:
    """Those that are installed; prints one line for each of the others."""
    found = {}
    for name, (module, opener) in _RIVALS.items():
        if find_spec(module) is not None:
            found[name] = opener
        else:
            print(f"{module} is not installed, so it is left out (pip install {module})")
    return found


def versions() -> dict[str, str]:
    """The version of each rival that is installed."""
    modules = [module for module, _ in _RIVALS.values()]
    return {m: metadata.version(m) for m in modules if find_spec(m) is not None}


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what native code prints to standard output, which may hold this program's JSON."""
    sys.stdout.flush()
    buffered = ctypes.CDLL(None)  # C's own standard output
    buffered.fflush(None)
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
            yield
            buffered.fflush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
