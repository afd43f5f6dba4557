"""The contenders: dense fp32, the packed file, the kernels, and the dense int8 baseline.

Each opens fresh sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from fggp_deploy import runtime
from fggp_deploy.analysis.bench.model import BenchmarkedModel
from fggp_deploy.common.progress import Progress
from fggp_deploy.graph.reading import read_bytes
from fggp_deploy.measure.network import SESSION_CONFIG
from fggp_deploy.quantization.dense_baseline import quantize, quantize_on
from fggp_deploy.runtime.dense import read_dense
from fggp_deploy.runtime.sessions import SessionConfig, run, try_out

DENSE, PACKED, KERNELS, INT8 = "dense", "packed", "kernels", "int8"
N_RANDOM = 16  # inputs to calibrate with, if there are no images
Opener = Callable[[int, int], ort.InferenceSession]  # (threads, batch)


@dataclass(frozen=True)
class Contender:
    """A way to run the network: `what` it is in words, the `file_bytes` that must be stored.

    `open` starts a session for given threads and batch.
    """

    name: str
    what: str
    file_bytes: int
    open: Opener


def contenders(model: BenchmarkedModel, *, int8: bool, progress: Progress) -> list[Contender]:
    """Dense first, then those that this file allows; raises ModelFileError if it does not run."""
    path = model.path
    content = read_bytes(path)
    file_bytes = len(content)
    dense = model.dense.SerializeToString() if model.packed else content
    feeds = model.feeds(1)
    try_out(lambda: run(SessionConfig(1).open(dense, name=path.name), feeds, path.name), path.name)
    made = [Contender(DENSE, "dense fp32, stock onnxruntime", len(dense), _stock(dense, DENSE))]
    if model.packed:
        what = "the packed file, stock onnxruntime"
        made.append(Contender(PACKED, what, file_bytes, _stock(content, path.name)))

    def on_kernels(threads: int, batch: int) -> ort.InferenceSession:
        return runtime.session(
            path,
            threads=threads,
            batch=batch,
            shape=model.shape,
            config=SESSION_CONFIG,
            progress=progress,
        )

    what = f"{'the packed' if model.packed else 'this'} file, runtime.session"
    made.append(Contender(KERNELS, what, file_bytes, on_kernels))
    if int8:
        progress("quantizing to int8", 0, 1)
        quantized, on = _quantized(model, dense)
        what = f"dense int8 (QDQ, per channel, calibrated on {on}), stock onnxruntime"
        made.append(Contender(INT8, what, len(quantized), _stock(quantized, INT8)))
        progress("quantizing to int8", 1, 1)
    return made


def _stock(content: bytes, name: str) -> Opener:
    return lambda threads, batch: SessionConfig(threads, SESSION_CONFIG).open(content, name=name)


def _quantized(model: BenchmarkedModel, dense: bytes) -> tuple[bytes, str]:
    """The dense int8 baseline, and what it was calibrated on."""
    batch = model.fixed_batch or 1
    if model.images is None:
        like, rng = model.feeds(batch), np.random.default_rng(1)
        feeds = [
            {name: rng.standard_normal(x.shape, dtype=np.float32) for name, x in like.items()}
            for _ in range(N_RANDOM)
        ]
        return quantize(read_dense(dense), feeds), f"{N_RANDOM * batch} random inputs"
    n = len(model.images.calibration) // batch * batch
    on = f"{n} images of {model.images.data}"
    return quantize_on(dense, model.images.calibration, batch=batch), on
