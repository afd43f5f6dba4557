"""What the networks of a subject answer on its test images, as they are and disturbed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fggp_deploy.artifacts.sparse_model import SparseModel
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import ModelFileError
from fggp_deploy.progress import Progress
from fggp_deploy.verify import accuracy, parity
from fggp_deploy.verify.accuracy import Accuracy, Paired
from fggp_deploy.verify.input_check import InputCheck, check_inputs
from fggp_deploy.verify.int8 import Int8
from fggp_deploy.verify.network import Floats, Network, load
from fggp_deploy.verify.parity import Difference
from fggp_deploy.verify.robustness import Robustness, robustness
from fggp_deploy.verify.subject import Subject

KERNELS_RTOL = 1e-5  # of the largest logit: how far the kernels may be from stock


@dataclass(frozen=True)
class Answered:
    """What the whole test split tells; None is what there was no network or no data for.

    `accuracy` is paired with the parent's, `kernels` compares the kernels with stock onnxruntime,
    `rounded` fp16 values with fp32 ones, `int8` the parent quantised with the parent.
    """

    accuracy: Accuracy | None = None
    kernels: Difference | None = None
    rounded: Paired | None = None
    int8: Int8 | None = None


def answered(subject: Subject, *, threads: int, progress: Progress) -> Answered:
    """Run every network on the whole test split."""
    if subject.data is None:
        return Answered()
    test = subject.data.test

    def run(network: Network, stage: str) -> Floats:
        preprocessing = subject.packed.metadata.preprocessing
        return accuracy.logits(network, test, preprocessing, partial(progress, stage))

    y = run(subject.model, "accuracy")
    y_parent = run(subject.parent, "accuracy of the reference") if subject.parent else None
    fast = None
    if subject.kernels is not None:
        # sums in another order differ by roundings of the largest logits, whatever the one compared
        atol = max(parity.ATOL, KERNELS_RTOL * float(np.abs(y).max()))
        fast = parity.difference(run(subject.kernels, "accuracy on the kernels"), y, atol=atol)
    scored = accuracy.accuracy(
        y, y_parent, test, data=subject.data.name, classes=subject.data.classes
    )
    y_fp32 = run(subject.unrounded, "accuracy in fp32") if subject.unrounded else None
    rounded = None if y_fp32 is None else accuracy.paired(y, y_fp32, test.labels)
    int8 = None
    if subject.int8 is not None and y_parent is not None:
        content = subject.int8.content
        y_int8 = run(load("dense int8", content, threads=threads), "accuracy of dense int8")
        int8 = Int8(
            file_bytes=len(content),
            n_calibration=subject.int8.n_calibration,
            scores=accuracy.scores(y_int8, test.labels),
            paired=accuracy.paired(y_int8, y_parent, test.labels),
        )
    return Answered(scored, fast, rounded, int8)


def inputs_as_trained(subject: Subject) -> InputCheck | None:
    """Try other preprocessing on some test images; None without data."""
    if subject.data is None:
        return None
    others = {}
    if subject.reference is not None and (own := _preprocessing(subject.reference)) is not None:
        others["the mean and std of the parent"] = own
    others[f"the mean and std of {subject.data.name}"] = subject.data.preprocessing
    return check_inputs(
        subject.model, subject.data.test, subject.packed.metadata.preprocessing, others
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
