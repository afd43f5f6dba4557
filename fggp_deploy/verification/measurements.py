"""Step two, measure: every number about the model under test, without a verdict."""

from __future__ import annotations

from dataclasses import dataclass

from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.errors import ModelFileError
from fggp_deploy.measure.latency import Latency
from fggp_deploy.measure.machine import Load, watching_load
from fggp_deploy.measure.process import Cost
from fggp_deploy.measure.profile import LayerTime
from fggp_deploy.measure.robustness import Robustness
from fggp_deploy.measure.size import Size, size
from fggp_deploy.runtime.costs import LayerCost
from fggp_deploy.verification import mismatch, parity, speed
from fggp_deploy.verification.certificate import Certificate, certificate
from fggp_deploy.verification.locate import Mismatch
from fggp_deploy.verification.model_under_test import ModelUnderTest
from fggp_deploy.verification.options import VerifyOptions
from fggp_deploy.verification.original import Original
from fggp_deploy.verification.parity import Difference
from fggp_deploy.verification.predictions import (
    Predictions,
    input_check,
    predictions,
    robustness_of,
    torch_parity,
)
from fggp_deploy.verification.preprocessing_check import InputCheck


@dataclass(frozen=True)
class Measurements:
    """The numbers of one file, as the fields of `Report` describe them.

    `checks` are the parity checks by name, in the order of their verdicts. `no_mismatch` and
    `no_torch` are notes on why these are missing.
    """

    checks: dict[str, Difference]
    self_test: Difference | None
    rounding: Difference | None
    parity: dict[str, Difference]
    torch: Difference | None
    predictions: Predictions
    inputs: InputCheck | None
    robustness: Robustness | None
    certificate: Certificate
    size: Size
    latency: Latency
    other_latencies: tuple[Latency, ...]
    load: Load
    layer_times: tuple[LayerTime, ...]
    kernel_layers: tuple[LayerCost, ...]
    processes: dict[str, Cost]
    mismatch: Mismatch | None
    no_mismatch: tuple[str, ...]
    no_torch: tuple[str, ...]


def measure(
    under_test: ModelUnderTest,
    options: VerifyOptions,
    *,
    original: Original | None = None,
    progress: Progress = silent,
) -> Measurements:
    """Measure everything; see `verify` for the errors.

    `original` is asked for after all timing, because making it may start torch's threads.
    """
    (threads, batch), seed = options.judged_setting, options.seed
    progress("parity", 0, 1)
    self_test = parity.self_test(under_test)
    packed_parity = parity.packed_against_dense(under_test, threads=threads, seed=seed)
    progress("parity", 1, 1)
    rounding = parity.rounding(under_test)
    predicted = predictions(under_test, threads=threads, seed=seed, progress=progress)
    inputs, robustness = None, None
    if options.check_preprocessing:
        inputs = input_check(under_test, seed=seed, progress=progress)
    if options.robustness is not None:
        robustness = robustness_of(
            under_test,
            options.robustness,
            corruptions=options.corruptions,
            seed=seed,
            progress=progress,
        )
    with watching_load() as load:
        latency, *others = speed.latencies(under_test, options, progress)
    layer_times = speed.layer_times(under_test, threads=threads, batch=batch, seed=seed)
    kernel_layers = speed.kernel_layers(under_test, batch=batch, progress=progress)
    processes = speed.processes(under_test, threads=threads, batch=batch, progress=progress)
    torch, no_torch = _torch(under_test, original, predicted, seed, progress)
    found = {
        mismatch.SELF_TEST: self_test,
        mismatch.ROUNDING: rounding,
        **{f"{mismatch.PARITY} {inputs}": d for inputs, d in packed_parity.items()},
        mismatch.KERNELS: predicted.kernels,
        mismatch.COMPILED: predicted.compiled,
        mismatch.TORCH: torch,
    }
    checks = {name: d for name, d in found.items() if d is not None}
    differs, missed = mismatch.first_mismatch(under_test, checks, original, threads=threads)
    reference = None if under_test.dense is None else under_test.dense.path
    return Measurements(
        checks=checks,
        self_test=self_test,
        rounding=rounding,
        parity=packed_parity,
        torch=torch,
        predictions=predicted,
        inputs=inputs,
        robustness=robustness,
        certificate=certificate(under_test.packed, reference),
        size=size(under_test.packed, reference),
        latency=latency,
        other_latencies=tuple(others),
        load=load,
        layer_times=layer_times,
        kernel_layers=kernel_layers,
        processes=processes,
        mismatch=differs,
        no_mismatch=missed,
        no_torch=no_torch,
    )


def _torch(
    under_test: ModelUnderTest,
    original: Original | None,
    predicted: Predictions,
    seed: int,
    progress: Progress,
) -> tuple[Difference | None, tuple[str, ...]]:
    """Parity of torch and stock ONNX Runtime, or None and a note that says why."""
    if under_test.metadata.unrounded is not None:
        return None, (
            "The network was not run in torch, because the checkpoint has fp32 values and the file "
            "has rounded ones.",
        )
    if original is None:
        return None, ()
    try:
        network = original.in_torch()
    except ModelFileError as e:
        return None, (f"The network was not run in torch: {e}.",)
    if network is None:
        return None, ()
    found = torch_parity(under_test, network, predicted.logits, seed=seed, progress=progress)
    return found, ()
