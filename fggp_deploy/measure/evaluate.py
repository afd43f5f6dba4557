"""Accuracy on a split, and whether the difference to the dense model is more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fggp_deploy.data.types import Images, Labels, Part
from fggp_deploy.errors import DataError
from fggp_deploy.measure.calibration import Calibration, calibration
from fggp_deploy.measure.classes import ClassChange, by_class
from fggp_deploy.measure.network import Floats, Network
from fggp_deploy.measure.statistics import (
    Proportion,
    bootstrap_difference,
    difference_interval,
    mcnemar,
    proportion,
)

BATCH_BYTES = 16 << 20  # prepared float32 images that are in memory at once
MAX_BATCH = 256


class Prepare(Protocol):
    """Turns images into the network's input, as Preprocessing does."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input."""
        ...

    def __call__(self, images: Images) -> Floats:
        """Prepare uint8 [N, H, W, C] as float32 [N, C, H, W]."""
        ...


@dataclass(frozen=True)
class Scores:
    """Top-1 accuracy of one network and, for more than five classes, top-5 accuracy."""

    top1: Proportion
    top5: Proportion | None


@dataclass(frozen=True)
class Paired:
    """A network compared with a baseline on the same n images.

    Only the baseline predicts `lost` images correctly, and only the network `gained` images.
    `drop_points` = (lost − gained) / n in percentage points, positive if accuracy fell;
    [drop_low, drop_high] is its 95% interval and [bootstrap_low, bootstrap_high] the same by a
    paired bootstrap over images. `p_value` is McNemar's, exact and two-sided.
    """

    n: int
    agreement: Proportion
    lost: int
    gained: int
    p_value: float
    drop_points: float
    drop_low: float
    drop_high: float
    bootstrap_low: float
    bootstrap_high: float


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on `n` images of a data set, alone and compared with the dense model.

    `model` is the file on stock ONNX Runtime, `kernels` the same file on the sparse kernels, None
    if they were not run. `reference` is the dense model. `calibration` is keyed "model" and, if
    there is a dense model, "reference"; `classes` are in the data set's order, and empty without a
    dense model.
    """

    data: str
    split: str
    n: int
    model: Scores
    kernels: Scores | None
    reference: Scores | None
    paired: Paired | None
    kernels_paired: Paired | None
    calibration: dict[str, Calibration]
    classes: tuple[ClassChange, ...]


def logits(
    network: Network,
    split: Part,
    preprocessing: Prepare,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Floats:
    """Run a whole split, preparing only one batch at a time, and return logits [N, classes].

    `progress(done, total)` counts images. Raises DataError for an empty split or another image
    size, ModelFileError for logits that are not finite.
    """
    if not len(split):
        raise DataError("the split has no images; accuracy needs at least one")
    batch = min(MAX_BATCH, max(1, BATCH_BYTES // (4 * math.prod(preprocessing.input_shape))))
    parts = []
    for i in range(0, len(split), batch):
        parts.append(network.logits(preprocessing(split.read(slice(i, i + batch)))))
        progress(min(i + batch, len(split)), len(split))
    return np.concatenate(parts)


def hits(y: Floats, labels: Labels, k: int) -> npt.NDArray[np.bool_]:
    """Whether each label [N] is among the k largest logits of y [N, classes]; ties by index."""
    own = np.take_along_axis(y, labels[:, None], axis=1)
    earlier = np.arange(y.shape[1]) < labels[:, None]
    rank = ((y > own) | ((y == own) & earlier)).sum(axis=1)
    return np.asarray(rank < k)


def scores(y: Floats, labels: Labels) -> Scores:
    """Top-1 and top-5 accuracy of logits y [N, classes] against labels [N]."""
    n, classes = y.shape
    top5 = proportion(int(hits(y, labels, 5).sum()), n) if classes > 5 else None
    return Scores(proportion(int(hits(y, labels, 1).sum()), n), top5)


def paired(y: Floats, reference: Floats, labels: Labels) -> Paired:
    """Compare the predictions of two networks [N, classes] on the same labels [N]."""
    right, reference_right = hits(y, labels, 1), hits(reference, labels, 1)
    n = len(labels)
    lost = int((reference_right & ~right).sum())
    gained = int((right & ~reference_right).sum())
    low, high = difference_interval(lost, gained, n)
    bootstrap_low, bootstrap_high = bootstrap_difference(lost, gained, n)
    return Paired(
        n=n,
        agreement=proportion(int((y.argmax(1) == reference.argmax(1)).sum()), n),
        lost=lost,
        gained=gained,
        p_value=mcnemar(lost, gained),
        drop_points=100 * (lost - gained) / n,
        drop_low=100 * low,
        drop_high=100 * high,
        bootstrap_low=100 * bootstrap_low,
        bootstrap_high=100 * bootstrap_high,
    )


def accuracy(
    y: Floats,
    reference: Floats | None,
    split: Part,
    *,
    on_kernels: Floats | None = None,
    data: str,
    classes: Sequence[str],
) -> Accuracy:
    """The accuracy of logits y [N, classes] on the test split of a data set, all figures."""

    def against_reference(logits: Floats | None) -> Paired | None:
        if logits is None or reference is None:
            return None
        return paired(logits, reference, split.labels)

    both = {"model": y} if reference is None else {"model": y, "reference": reference}
    scored = {name: scores(logits, split.labels) for name, logits in both.items()}
    return Accuracy(
        data=data,
        split="test",
        n=len(split),
        model=scored["model"],
        kernels=None if on_kernels is None else scores(on_kernels, split.labels),
        reference=scored.get("reference"),
        paired=against_reference(y),
        kernels_paired=against_reference(on_kernels),
        calibration={name: calibration(logits, split.labels) for name, logits in both.items()},
        classes=()
        if reference is None
        else by_class(
            hits(y, split.labels, 1), hits(reference, split.labels, 1), split.labels, classes
        ),
    )
