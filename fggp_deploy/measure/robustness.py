"""Robustness to noise and corruptions, after Liebenwein et al., "Lost in Pruning", MLSys 2021.

The paper also measures shifts that need other data sets (ImageNet-V2, ObjectNet, …). Common
corruptions of the test images replace them here: our own, or published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fggp_deploy.data.sampling import sample
from fggp_deploy.data.types import Part, Preprocessing, Split
from fggp_deploy.errors import UnknownName
from fggp_deploy.measure import corruptions, evaluate
from fggp_deploy.measure.corruption_sources import (
    Corruptions,
    GeneratedCorruptions,
    PublishedCorruptions,
)
from fggp_deploy.measure.network import Floats, Network
from fggp_deploy.measure.noise import NoiseLevel, Noisy, noise_level
from fggp_deploy.measure.statistics import (
    Proportion,
    bootstrap_points,
    excess_interval,
    proportion,
)

EPSILONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Extent:
    """How much is measured: at most `n` test images over all classes, at these levels.

    For large images the number is reduced to `pixels` in total, but not below `LEAST` images. Of
    published corruptions, which papers measure whole, at most `n_published` images are taken.
    """

    n: int
    n_published: int | None
    severities: tuple[int, ...]
    epsilons: tuple[float, ...]
    pixels: int | None = None

    def n_images(self, height: int, width: int, *, published: bool = False) -> int | None:
        """The number of images of this size; None for all."""
        if published:
            return self.n_published
        if self.pixels is None:
            return self.n
        return min(self.n, max(LEAST, self.pixels // (height * width)))


LEAST = 64
EXTENTS = {
    "quick": Extent(500, 500, (3,), EPSILONS[::2], pixels=500 * 64 * 64),
    "full": Extent(2_000, None, corruptions.SEVERITIES, EPSILONS),
}


@dataclass(frozen=True)
class Shift:
    """One corruption at one severity: both errors, and the excess error in percentage points.

    `excess_points` = (err(D′) − err(D)) − (err_dense(D′) − err_dense(D)) is positive if the network
    suffers more than the dense model; [excess_low, excess_high] is its 95% interval by a bootstrap
    over images.
    """

    kind: str
    severity: int
    model_error: Proportion
    reference_error: Proportion
    excess_points: float
    excess_low: float
    excess_high: float


@dataclass(frozen=True)
class Kind:
    """Excess error of one corruption, the mean over the severities measured, as in `Shift`."""

    kind: str
    n_severities: int
    excess_points: float
    excess_low: float
    excess_high: float


@dataclass(frozen=True)
class Robustness:
    """The network compared with the dense model on `n` images under noise and corruptions.

    `source` of the corrupted images is "generated" or the name of a published folder. `mean_error`
    and `mean_reference_error` are the errors' means over all `shifts`, as papers state them.
    `excess_points` is the mean over all `shifts`. Its interval is a bootstrap over images, each
    with all its corrupted forms.
    """

    extent: str
    n: int
    model_error: Proportion
    reference_error: Proportion
    noise: tuple[NoiseLevel, ...]
    shifts: tuple[Shift, ...]
    kinds: tuple[Kind, ...]
    excess_points: float
    excess_low: float
    excess_high: float
    left_out: tuple[str, ...]
    source: str = "generated"
    mean_error: float | None = None  # None in reports of earlier versions
    mean_reference_error: float | None = None


def robustness(
    model: Network,
    reference: Network,
    split: Part,
    preprocessing: Preprocessing,
    *,
    extent: str,
    published: Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Robustness:
    """Measure both networks on the same disturbed images; `extent` is "quick" or "full".

    `published`: a folder of published corruptions of the whole `split`, in place of ours; see
    PublishedCorruptions. `progress(done, total)` counts images that went through a network. Raises
    UnknownName for another extent, DataError for an empty split or another split's corruptions.
    """
    if extent not in EXTENTS:
        raise UnknownName("robustness", extent, EXTENTS)
    size, shape = EXTENTS[extent], preprocessing.image_shape
    source: Corruptions = GeneratedCorruptions(shape[-1], seed)
    if published is not None:
        source = PublishedCorruptions.open(published, split.labels, shape)
    n = size.n_images(*shape[:2], published=published is not None)
    rows = sample(split.labels, len(split) if n is None else n, seed=seed)
    images = Split(split.read(rows), split.labels[rows])
    kinds = source.kinds
    n_passes = 2 * (len(size.epsilons) + 1 + len(kinds) * len(size.severities))
    pair = _Pair(model, reference, preprocessing, _Passes(n_passes, len(images), progress))
    noise = tuple(pair.noise(images, e, (seed, EPSILONS.index(e))) for e in size.epsilons)
    clean, reference_clean = pair.errors(images)
    shifts: list[Shift] = []
    by_kind, excess = [], np.zeros(len(images))
    for kind in kinds:
        of_kind = np.zeros(len(images))
        for severity in size.severities:
            corrupted = Split(source.corrupted(images, rows, kind, severity), images.labels)
            own, others = pair.errors(corrupted)
            each = (own - clean) - (others - reference_clean)
            of_kind += each
            shifts.append(_shift(kind, severity, own, others, each))
        excess += of_kind
        n_severities = len(size.severities)
        by_kind.append(Kind(kind, n_severities, *bootstrap_points(of_kind / n_severities)))
    mean, low, high = bootstrap_points(excess / len(shifts))
    return Robustness(
        extent=extent,
        n=len(images),
        model_error=_share(clean),
        reference_error=_share(reference_clean),
        noise=noise,
        shifts=tuple(shifts),
        kinds=tuple(by_kind),
        excess_points=mean,
        excess_low=low,
        excess_high=high,
        left_out=source.left_out,
        source=source.name,
        mean_error=_mean(s.model_error for s in shifts),
        mean_reference_error=_mean(s.reference_error for s in shifts),
    )


@dataclass
class _Passes:
    """Counts the images of `total` passes of `n` images through a network."""

    total: int
    n: int
    progress: Callable[[int, int], None]
    finished: int = 0

    def logits(self, network: Network, images: Split, prepare: evaluate.Prepare) -> Floats:
        """The logits of one pass."""
        before = self.finished * self.n

        def report(done: int, _: int) -> None:
            self.progress(before + done, self.total * self.n)

        self.finished += 1
        return evaluate.logits(network, images, prepare, report)


@dataclass(frozen=True)
class _Pair:
    """The network and its dense model, run on the same images."""

    model: Network
    reference: Network
    preprocessing: Preprocessing
    passes: _Passes

    def errors(self, images: Split) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For each network 1 for every image that it predicts wrongly, else 0."""
        own, others = (
            self.passes.logits(network, images, self.preprocessing)
            for network in (self.model, self.reference)
        )
        return _wrong(own, images), _wrong(others, images)

    def noise(self, images: Split, epsilon: float, seed: tuple[int, ...]) -> NoiseLevel:
        """Compare the two on the same noise."""
        y, expected = (
            self.passes.logits(network, images, Noisy(self.preprocessing, epsilon, seed))
            for network in (self.model, self.reference)
        )
        return noise_level(epsilon, y, expected)


def _wrong(y: Floats, images: Split) -> npt.NDArray[np.int64]:
    return (~evaluate.hits(y, images.labels, 1)).astype(np.int64)


def _shift(
    kind: str,
    severity: int,
    own: npt.NDArray[np.int64],
    others: npt.NDArray[np.int64],
    each: npt.NDArray[np.int64],
) -> Shift:
    low, high = excess_interval(each)
    mean = 100 * float(each.mean())
    return Shift(kind, severity, _share(own), _share(others), mean, 100 * low, 100 * high)


def _mean(errors: Iterable[Proportion]) -> float:
    return float(np.mean([e.value for e in errors]))


def _share(wrong: npt.NDArray[np.int64]) -> Proportion:
    return proportion(int(wrong.sum()), len(wrong))
