"""What the networks of a subject answer on its test images, as they are and disturbed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from fggp_deploy.artifacts.sparse_model import SparseModel
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import ModelFileError
from fggp_deploy.progress import Progress
from fggp_deploy.verify import accuracy, parity
from fggp_deploy.verify.input_check import InputCheck, check_inputs
from fggp_deploy.verify.network import Floats, Network
from fggp_deploy.verify.robustness import Robustness, robustness
from fggp_deploy.verify.subject import Subject

KERNELS_RTOL = 1e-5  # of the largest logit: how far the kernels may be from stock


def score(
    subject: Subject, progress: Progress
) -> tuple[accuracy.Accuracy | None, parity.Difference | None, accuracy.Paired | None]:
    """Accuracy on the whole test split, paired with the parent's, and kernels against stock there.

    Third, fp16 values paired with fp32 ones. Each is None where there are no data, no kernels, or
    no file with fp32 values.
    """
    if subject.data is None:
        return None, None, None
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
    return scored, fast, rounded


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
