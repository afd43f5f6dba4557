"""Speed and memory of each network: by threads and batch, by layer, and in fresh processes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fggp_deploy import runtime
from fggp_deploy.common.files import scratch_folder
from fggp_deploy.common.progress import Progress
from fggp_deploy.errors import ModelFileError
from fggp_deploy.measure.latency import (
    MIN_SESSIONS,
    N_SESSIONS,
    Latency,
    Opener,
    Sampling,
    TimedCall,
    at_setting,
)
from fggp_deploy.measure.network import SESSION_CONFIG, Floats, Network, load, open_by_runtime
from fggp_deploy.measure.process import Cost, measure_processes
from fggp_deploy.measure.profile import LayerTime, profile
from fggp_deploy.runtime.compiler import price_layers
from fggp_deploy.runtime.costs import LayerCost
from fggp_deploy.runtime.plan import CompileRequest
from fggp_deploy.runtime.sessions import SessionConfig
from fggp_deploy.verification.locate import layers_by_node
from fggp_deploy.verification.model_under_test import (
    INT8,
    KERNELS,
    MODEL,
    REFERENCE,
    ModelUnderTest,
)
from fggp_deploy.verification.options import VerifyOptions

OTHER_SHARE = 0.2  # of the seconds of the judged setting, for each other setting


def latencies(
    under_test: ModelUnderTest, options: VerifyOptions, progress: Progress
) -> tuple[Latency, ...]:
    """Time every network at each setting of `options`, the setting that gates judge first.

    Each other setting gets a fifth of the time and fewer sessions. Raises ModelFileError for a
    batch that a network does not take.
    """
    judged = Sampling(options.seconds, N_SESSIONS, options.seed)
    other = Sampling(OTHER_SHARE * options.seconds, MIN_SESSIONS, options.seed)
    return tuple(
        _at(under_test, threads, batch, sampling=other if i else judged, progress=progress)
        for i, (threads, batch) in enumerate(options.settings)
    )


def layer_times(
    under_test: ModelUnderTest, *, threads: int, batch: int, seed: int
) -> tuple[LayerTime, ...]:
    """Time per layer of the packed file on stock ONNX Runtime."""
    x = _images(under_test, batch, np.random.default_rng(seed))
    layers = layers_by_node(under_test.packed.dense())
    return profile(under_test.packed.runnable(), x, threads=threads, layers=layers)


def kernel_layers(
    under_test: ModelUnderTest, *, batch: int, progress: Progress
) -> tuple[LayerCost, ...]:
    """Time per layer, dense on stock ONNX Runtime and on the kernels; empty without kernels."""
    if under_test.kernels is None:
        return ()
    request = CompileRequest(SessionConfig(1, SESSION_CONFIG), batch, progress=progress)
    return tuple(price_layers(under_test.packed.runnable(), request))


def processes(
    under_test: ModelUnderTest, *, threads: int, batch: int, progress: Progress
) -> dict[str, Cost]:
    """Load time and peak memory of each network in fresh processes."""
    packed = under_test.packed
    with scratch_folder("fggp-verify-") as folder:
        copy = folder / "model.onnx"  # a CSR folder is not a file that onnxruntime loads
        copy.write_bytes(packed.runnable())
        paths = {MODEL: copy}
        if under_test.kernels is not None:
            paths[KERNELS] = copy
        if under_test.dense is not None:
            paths[REFERENCE] = under_test.dense.path
        if under_test.int8 is not None:
            paths[INT8] = folder / "int8.onnx"
            paths[INT8].write_bytes(under_test.int8.content)
        return measure_processes(
            paths,
            input_shape=(batch, *packed.metadata.images.input_shape),
            threads=threads,
            on_kernels=[KERNELS],
            progress=partial(progress, "load time and memory"),
        )


def _at(
    under_test: ModelUnderTest,
    threads: int,
    batch: int,
    *,
    sampling: Sampling,
    progress: Progress,
) -> Latency:
    x = _images(under_test, batch, np.random.default_rng(sampling.seed))
    under_test.network.logits(x)  # a network that does not take this batch raises here
    contenders = _stock(under_test, x)
    dense = under_test.dense
    if dense is not None:
        dense.network.logits(x)
    packed = under_test.packed

    def by_runtime(threads: int, batch: int) -> tuple[Network, str]:
        return open_by_runtime(
            KERNELS, packed.runnable(), threads=threads, batch=batch, progress=progress
        )

    def on_kernels(threads: int, batch: int) -> TimedCall:
        network, plan = by_runtime(threads, batch)
        if not runtime.uses_kernels(network.session):
            raise ModelFileError(f"{packed.path.name} ran on the kernels and now is {plan}")
        return network.runner(x)

    planned, plan = by_runtime(threads, batch)
    if runtime.uses_kernels(planned.session):
        contenders[KERNELS] = on_kernels
    del planned
    found = at_setting(
        contenders,
        threads,
        batch,
        reference=REFERENCE if dense is not None else None,
        sampling=sampling,
        progress=progress,
    )
    return replace(found, plan=plan)


def _stock(under_test: ModelUnderTest, x: Floats) -> dict[str, Opener]:
    """The contenders on stock ONNX Runtime: the model, its dense model, the int8 baseline."""
    files: dict[str, bytes | Path] = {MODEL: under_test.packed.runnable()}
    if under_test.dense is not None:
        files[REFERENCE] = under_test.dense.path
    if under_test.int8 is not None:
        files[INT8] = under_test.int8.content

    def opener(name: str) -> Opener:
        return lambda threads, batch: load(name, files[name], threads=threads).runner(x)

    return {name: opener(name) for name in files}


def _images(under_test: ModelUnderTest, batch: int, rng: np.random.Generator) -> Floats:
    shape = (batch, *under_test.metadata.images.input_shape)
    return rng.standard_normal(shape, dtype=np.float32)
