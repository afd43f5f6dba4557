"""What the networks of a subject answer on its test images, as they are and disturbed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fggp_deploy.common.progress import Progress
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.model import SparseModel
from fggp_deploy.graph.comparison import rtol_for
from fggp_deploy.measure import evaluate as accuracy
from fggp_deploy.measure.evaluate import Accuracy, Paired
from fggp_deploy.measure.network import Floats, Network, load
from fggp_deploy.verify.int8 import Int8
from fggp_deploy.verify.model_under_test import Subject, probe_inputs
from fggp_deploy.verify.parity import Difference, near
from fggp_deploy.verify.preprocessing_check import InputCheck, check_inputs
from fggp_deploy.verify.robustness import Robustness, robustness


@dataclass(frozen=True)
class Answered:
    """What the whole test split tells; None is what there was no network or no data for.

    `logits` are the file's on stock onnxruntime, for the test images or, without data, for the
    probe inputs; `kernels` and `compiled` are compared with them. `accuracy` is paired with the
    parent's, `rounded` are fp16 values against fp32 ones, `int8` is the parent quantised against
    the parent.
    """

    logits: Floats
    kernels: Difference | None
    compiled: Difference | None
    accuracy: Accuracy | None = None
    rounded: Paired | None = None
    int8: Int8 | None = None


def answered(subject: Subject, *, threads: int, seed: int, progress: Progress) -> Answered:
    """Run every network on the whole test split, or without data on the probe inputs."""
    answer = partial(_answer, subject, seed=seed, progress=progress)
    y = answer(subject.model, "accuracy")
    rtol = rtol_for(in_bytes=subject.packed.has_quantized_activations)

    def of(network: Network | None, stage: str) -> Floats | None:
        return None if network is None else answer(network, stage)

    def unoptimized() -> Floats:
        content, name = subject.packed.runnable(), subject.packed.path.name
        return answer(load(name, content, threads=threads, optimize=False), "accuracy, unoptimised")

    def compared(logits: Floats | None) -> Difference | None:
        return None if logits is None else near(logits, y, rtol=rtol, unoptimized=unoptimized)

    y_kernels = of(subject.kernels, "accuracy on the kernels")
    y_compiled = of(subject.compiled, "accuracy of the compiled file")
    found = Answered(
        logits=y,
        kernels=compared(y_kernels),
        compiled=compared(y_compiled),
    )
    if subject.data is None:
        return found
    test, name, classes = subject.data.test, subject.data.name, subject.data.classes
    y_parent = of(subject.parent, "accuracy of the dense parent")
    y_fp32 = of(subject.unrounded, "accuracy in fp32")
    int8 = None
    if subject.int8 is not None and y_parent is not None:
        content = subject.int8.content
        y_int8 = answer(load("dense int8", content, threads=threads), "accuracy of dense int8")
        int8 = Int8(
            file_bytes=len(content),
            n_calibration=subject.int8.n_calibration,
            scores=accuracy.scores(y_int8, test.labels),
            paired=accuracy.paired(y_int8, y_parent, test.labels),
        )
    return replace(
        found,
        accuracy=accuracy.accuracy(
            y, y_parent, test, on_kernels=y_kernels, data=name, classes=classes
        ),
        rounded=None if y_fp32 is None else accuracy.paired(y, y_fp32, test.labels),
        int8=int8,
    )


def torch_against_stock(
    subject: Subject, torch: Network, logits: Floats, *, seed: int, progress: Progress
) -> Difference:
    """The network that the file was made from, on the inputs that gave `logits`."""
    y = _answer(subject, torch, "torch", seed=seed, progress=progress)
    return near(logits, y)


def _answer(
    subject: Subject, network: Network, stage: str, *, seed: int, progress: Progress
) -> Floats:
    if subject.data is None:
        return network.logits(probe_inputs(subject.packed.metadata, seed))
    preprocessing = subject.packed.metadata.preprocessing
    return accuracy.logits(network, subject.data.test, preprocessing, partial(progress, stage))


def inputs_as_trained(subject: Subject, *, seed: int, progress: Progress) -> InputCheck | None:
    """Try other preprocessing on the test images; None without data."""
    if subject.data is None:
        return None
    others = {}
    if subject.reference is not None and (own := _preprocessing(subject.reference)) is not None:
        others["the mean and std of the parent"] = own
    others[f"the mean and std of {subject.data.name}"] = subject.data.preprocessing
    return check_inputs(
        subject.model,
        subject.data.test,
        subject.packed.metadata.preprocessing,
        others,
        seed=seed,
        progress=partial(progress, "preprocessing"),
    )


def robustness_of(
    subject: Subject, extent: str, seed: int, progress: Progress
) -> Robustness | None:
    """Model against parent on disturbed test images; None without one of them."""
    if subject.data is None or subject.parent is None:
        return None
    return robustness(
        subject.model,
        subject.parent,
        subject.data.test,
        subject.packed.metadata.preprocessing,
        extent=extent,
        seed=seed,
        progress=partial(progress, "robustness"),
    )


def _preprocessing(reference: Path) -> Preprocessing | None:
    """What the parent says it is fed; None where its file says nothing."""
    try:
        return SparseModel.open(reference).metadata.preprocessing
    except ModelFileError:
        return None
