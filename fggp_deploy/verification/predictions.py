"""What each network predicts on the evaluation data, as it is and disturbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fggp_deploy.common.progress import Progress
from fggp_deploy.data.types import Labels
from fggp_deploy.graph.comparison import rtol_for
from fggp_deploy.measure import evaluate
from fggp_deploy.measure.evaluate import Accuracy, Paired, Scores
from fggp_deploy.measure.network import Floats, Network, load
from fggp_deploy.measure.robustness import Robustness, robustness
from fggp_deploy.verification.model_under_test import ModelUnderTest
from fggp_deploy.verification.parity import Difference, near
from fggp_deploy.verification.preprocessing_check import InputCheck, check_inputs


@dataclass(frozen=True)
class Int8:
    """Size and accuracy of the dense int8 baseline.

    Static quantization, QDQ, int8 weights per channel and uint8 activations, ranges from
    `n_calibration` training images. `scores` are on the test images; `paired` compares them with
    the dense model.
    """

    file_bytes: int
    n_calibration: int
    scores: Scores
    paired: Paired


@dataclass(frozen=True)
class Predictions:
    """What the whole test split shows; None if a network or the data are missing.

    `logits` are the file's on stock ONNX Runtime, for the test images or, without data, for the
    probe inputs; `kernels` and `compiled` are compared with them. `accuracy` is paired with the
    dense model. `rounding` compares fp16 or int8 values with fp32 ones.
    """

    logits: Floats
    kernels: Difference | None
    compiled: Difference | None
    accuracy: Accuracy | None = None
    rounding: Paired | None = None
    int8: Int8 | None = None


def predictions(
    under_test: ModelUnderTest, *, threads: int, seed: int, progress: Progress
) -> Predictions:
    """Run every network on the whole test split or, without data, on the probe inputs."""
    run = partial(_logits, under_test, seed=seed, progress=progress)
    y = run(under_test.network, "accuracy")
    rtol = rtol_for(in_bytes=under_test.packed.has_quantized_activations)

    def unoptimized() -> Floats:
        name, content = under_test.packed.path.name, under_test.packed.runnable()
        stock = load(name, content, threads=threads, optimize=False)
        return run(stock, "accuracy, not optimized")

    y_kernels, kernels, compiled = None, None, None
    if (on_kernels := under_test.kernels) is not None:
        y_kernels = run(on_kernels.fresh, "accuracy on the kernels")
        y_compiled = run(on_kernels.compiled, "accuracy of the compiled file")
        kernels = near(y_kernels, y, rtol=rtol, unoptimized=unoptimized)
        compiled = near(y_compiled, y, rtol=rtol, unoptimized=unoptimized)
    found = Predictions(logits=y, kernels=kernels, compiled=compiled)
    if (data := under_test.data) is None:
        return found
    test, dense = data.test, under_test.dense
    y_dense = run(dense.network, "accuracy of the dense model") if dense else None
    y_fp32 = run(under_test.fp32, "accuracy in fp32") if under_test.fp32 else None
    return replace(
        found,
        accuracy=evaluate.accuracy(
            y, y_dense, test, on_kernels=y_kernels, data=data.name, classes=data.classes
        ),
        rounding=None if y_fp32 is None else evaluate.paired(y, y_fp32, test.labels),
        int8=None if y_dense is None else _int8(under_test, test.labels, y_dense, threads, run),
    )


def torch_parity(
    under_test: ModelUnderTest, in_torch: Network, logits: Floats, *, seed: int, progress: Progress
) -> Difference:
    """Compare `logits` of stock ONNX Runtime with those of the network in torch, same inputs."""
    return near(logits, _logits(under_test, in_torch, "torch", seed=seed, progress=progress))


def input_check(under_test: ModelUnderTest, *, seed: int, progress: Progress) -> InputCheck | None:
    """Try other preprocessing on the test images; None without data."""
    if under_test.data is None:
        return None
    others = {}
    if under_test.dense is not None and under_test.dense.preprocessing is not None:
        others["the mean and std of the dense model"] = under_test.dense.preprocessing
    others[f"the mean and std of {under_test.data.name}"] = under_test.data.preprocessing
    return check_inputs(
        under_test.network,
        under_test.data.test,
        under_test.metadata.images,
        others,
        seed=seed,
        progress=partial(progress, "preprocessing"),
    )


def robustness_of(
    under_test: ModelUnderTest,
    extent: str,
    *,
    corruptions: Path | None,
    seed: int,
    progress: Progress,
) -> Robustness | None:
    """Compare the model with its dense model on disturbed test images; None if one is missing."""
    if under_test.data is None or under_test.dense is None:
        return None
    return robustness(
        under_test.network,
        under_test.dense.network,
        under_test.data.test,
        under_test.metadata.images,
        extent=extent,
        published=corruptions,
        seed=seed,
        progress=partial(progress, "robustness"),
    )


def _logits(
    under_test: ModelUnderTest, network: Network, stage: str, *, seed: int, progress: Progress
) -> Floats:
    if under_test.data is None:
        return network.logits(under_test.probe_inputs(seed))
    preprocessing = under_test.metadata.images
    return evaluate.logits(network, under_test.data.test, preprocessing, partial(progress, stage))


def _int8(
    under_test: ModelUnderTest,
    labels: Labels,
    y_dense: Floats,
    threads: int,
    run: Callable[[Network, str], Floats],
) -> Int8 | None:
    if under_test.int8 is None:
        return None
    content = under_test.int8.content
    y = run(load("dense int8", content, threads=threads), "accuracy of dense int8")
    return Int8(
        file_bytes=len(content),
        n_calibration=under_test.int8.n_calibration,
        scores=evaluate.scores(y, labels),
        paired=evaluate.paired(y, y_dense, labels),
    )
