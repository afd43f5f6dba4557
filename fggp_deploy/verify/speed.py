"""How fast a subject's networks are: by threads and batch, by layer, and from a cold start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fggp_deploy import runtime
from fggp_deploy.common.files import scratch_folder
from fggp_deploy.common.progress import Progress
from fggp_deploy.errors import ModelFileError
from fggp_deploy.measure.latency import MIN_SESSIONS, N_SESSIONS, Latency, Opener, Run, at_setting
from fggp_deploy.measure.network import SESSION_CONFIG, Floats, Network, load, open_by_runtime
from fggp_deploy.measure.process import Cost, measure_processes
from fggp_deploy.measure.profile import LayerTime, profile
from fggp_deploy.runtime.compiler import Request, price_layers
from fggp_deploy.runtime.costs import LayerCost
from fggp_deploy.runtime.sessions import Options
from fggp_deploy.verify.locate import layers_by_node
from fggp_deploy.verify.model_under_test import INT8, KERNELS, MODEL, REFERENCE, Subject

OTHER_SHARE = 0.2  # of the time of the setting that gates judge, for each of the others


def latencies(
    subject: Subject,
    settings: Sequence[tuple[int, int]],
    *,
    seconds: float,
    seed: int,
    progress: Progress,
) -> tuple[Latency, ...]:
    """Time every network at each of `settings`, pairs of threads and batch.

    The first, which `subject` was gathered for and gates judge, has `seconds`; each other one a
    fifth of them, and fewer sessions. Raises ModelFileError for a batch that a network cannot take.
    """
    return tuple(
        _at(
            subject, threads, batch, seed=seed, progress=progress,
            seconds=OTHER_SHARE * seconds if i else seconds,
            sessions=MIN_SESSIONS if i else N_SESSIONS,
        )
        for i, (threads, batch) in enumerate(settings)
    )  # fmt: skip


def layer_times(subject: Subject, *, threads: int, batch: int, seed: int) -> tuple[LayerTime, ...]:
    """Time by layer of the packed file on stock onnxruntime."""
    x = _images(subject, batch, np.random.default_rng(seed))
    layers = layers_by_node(subject.packed.dense())
    return profile(subject.packed.runnable(), x, threads=threads, layers=layers)


def kernel_layers(subject: Subject, *, batch: int, progress: Progress) -> tuple[LayerCost, ...]:
    """Each layer dense on stock onnxruntime and on the kernels; none where they are not used."""
    if subject.kernels is None:
        return ()
    request = Request(Options(1, SESSION_CONFIG), batch, progress=progress)
    return tuple(price_layers(subject.packed.runnable(), request))


def processes(subject: Subject, *, threads: int, batch: int, progress: Progress) -> dict[str, Cost]:
    """Load time and peak memory of each network in fresh processes."""
    packed = subject.packed
    with scratch_folder("fggp-verify-") as folder:
        copy = folder / "model.onnx"  # a CSR folder is not a file that onnxruntime loads
        copy.write_bytes(packed.runnable())
        paths = {MODEL: copy}
        if subject.kernels is not None:
            paths[KERNELS] = copy
        if subject.reference is not None:
            paths[REFERENCE] = subject.reference
        if subject.int8 is not None:
            paths[INT8] = folder / "int8.onnx"
            paths[INT8].write_bytes(subject.int8.content)
        return measure_processes(
            paths,
            input_shape=(batch, *packed.metadata.preprocessing.input_shape),
            threads=threads,
            on_kernels=[KERNELS],
            progress=partial(progress, "load time and memory"),
        )


def _at(
    subject: Subject,
    threads: int,
    batch: int,
    *,
    seconds: float,
    sessions: int,
    seed: int,
    progress: Progress,
) -> Latency:
    x = _images(subject, batch, np.random.default_rng(seed))
    for network in (subject.model, subject.parent):
        if network is not None:
            network.logits(x)  # what cannot take this batch fails here, with one clear line
    content = subject.packed.runnable()
    files: dict[str, bytes | Path] = {MODEL: content}
    if subject.reference is not None:
        files[REFERENCE] = subject.reference
    if subject.int8 is not None:
        files[INT8] = subject.int8.content

    def opener(name: str) -> Opener:
        return lambda threads, batch: load(name, files[name], threads=threads).runner(x)

    def by_runtime(threads: int, batch: int) -> tuple[Network, str]:
        return open_by_runtime(KERNELS, content, threads=threads, batch=batch, progress=progress)

    def on_kernels(threads: int, batch: int) -> Run:
        network, plan = by_runtime(threads, batch)
        if not runtime.uses_kernels(network.session):
            raise ModelFileError(f"{subject.packed.path.name} ran on the kernels and now is {plan}")
        return network.runner(x)

    contenders = {name: opener(name) for name in files}
    planned, plan = by_runtime(threads, batch)
    if runtime.uses_kernels(planned.session):
        contenders[KERNELS] = on_kernels
    del planned
    return at_setting(
        contenders,
        threads,
        batch,
        reference=REFERENCE if subject.reference is not None else None,
        seconds=seconds,
        sessions=sessions,
        seed=seed,
        plan=plan,
        progress=progress,
    )


def _images(subject: Subject, batch: int, rng: np.random.Generator) -> Floats:
    shape = (batch, *subject.packed.metadata.preprocessing.input_shape)
    return rng.standard_normal(shape, dtype=np.float32)
