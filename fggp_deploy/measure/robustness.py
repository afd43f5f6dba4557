"""Robustness to noise and corruptions, after Liebenwein et al., "Lost in Pruning", MLSys 2021.

The paper also measures shifts that need other data sets (ImageNet-V2, ObjectNet, …). Common
corruptions of the test images replace them here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from fggp_deploy.data.types import Images, Part, Preprocessing, Split
from fggp_deploy.errors import UnknownName
from fggp_deploy.measure import corruptions, evaluate
from fggp_deploy.measure.network import Floats, Network
from fggp_deploy.measure.statistics import (
    Proportion,
    bootstrap_points,
    excess_interval,
    mean_interval,
    proportion,
)

EPSILONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Extent:
    """How much is measured: at most `n` test images over all classes, at these levels.

    For large images the number is reduced to `pixels` in total, but not below `LEAST` images.
    """

    n: int
    severities: tuple[int, ...]
    epsilons: tuple[float, ...]
    pixels: int | None = None

    def n_images(self, height: int, width: int) -> int:
        """The number of images of this size."""
        if self.pixels is None:
            return self.n
        return min(self.n, max(LEAST, self.pixels // (height * width)))


LEAST = 64
EXTENTS = {
    "quick": Extent(500, (3,), EPSILONS[::2], pixels=500 * 64 * 64),
    "full": Extent(2_000, corruptions.SEVERITIES, EPSILONS),
}


@dataclass(frozen=True)
class NoiseLevel:
    """Both networks on x + 2ε(u − ½), x the normalized input and u uniform in [0, 1).

    `agreement` is the share of equal predictions; `softmax_distance` is the mean of
    ‖softmax − softmax of the dense model‖₂, with the 95% interval [distance_low, distance_high].
    """

    epsilon: float
    agreement: Proportion
    softmax_distance: float
    distance_low: float
    distance_high: float


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


def robustness(
    model: Network,
    reference: Network,
    split: Part,
    preprocessing: Preprocessing,
    *,
    extent: str,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Robustness:
    """Measure both networks on the same disturbed images; `extent` is "quick" or "full".

    `progress(done, total)` counts images that went through a network. Raises UnknownName for
    another extent, DataError for an empty split.
    """
    if extent not in EXTENTS:
        raise UnknownName("robustness", extent, EXTENTS)
    size = EXTENTS[extent]
    part = split.sample(size.n_images(preprocessing.height, preprocessing.width), seed=seed)
    images = Split(part.read(slice(None)), part.labels)
    kinds = corruptions.kinds(images.images.shape[-1])
    n_passes = 2 * (len(size.epsilons) + 1 + len(kinds) * len(size.severities))
    pair = _Pair(model, reference, preprocessing, _Passes(n_passes, len(images), progress))
    noise = tuple(pair.noise(images, e, (seed, EPSILONS.index(e))) for e in size.epsilons)
    clean, reference_clean = pair.errors(images)
    shifts: list[Shift] = []
    by_kind, excess = [], np.zeros(len(images))
    for kind in kinds:
        of_kind = np.zeros(len(images))
        for severity in size.severities:
            rng = np.random.default_rng([seed, kinds.index(kind), severity])
            corrupted = Split(_corrupt(images, kind, severity, rng), images.labels)
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
        left_out=corruptions.LEFT_OUT,
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
            self.passes.logits(network, images, _Noisy(self.preprocessing, epsilon, seed))
            for network in (self.model, self.reference)
        )
        return _noise(epsilon, y, expected)


def _wrong(y: Floats, images: Split) -> npt.NDArray[np.int64]:
    return (~evaluate.hits(y, images.labels, 1)).astype(np.int64)


def noisy(x: Floats, epsilon: float, rng: np.random.Generator) -> Floats:
    """x + 2ε(u − ½) with u uniform in [0, 1), float32 of the shape of x."""
    u = rng.random(x.shape, dtype=np.float32)
    return x + np.float32(2 * epsilon) * (u - np.float32(0.5))


class _Noisy:
    """A preprocessing followed by noise; the same seed gives the same noise."""

    def __init__(self, own: Preprocessing, epsilon: float, seed: tuple[int, ...]) -> None:
        self.own, self.epsilon = own, epsilon
        self._rng = np.random.default_rng(seed)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.own.input_shape

    def __call__(self, images: Images) -> Floats:
        return noisy(self.own(images), self.epsilon, self._rng)


def _noise(epsilon: float, y: Floats, expected: Floats) -> NoiseLevel:
    same = int((y.argmax(1) == expected.argmax(1)).sum())
    gap = special.softmax(y, axis=1) - special.softmax(expected, axis=1)
    mean, low, high = mean_interval(np.linalg.norm(gap.astype(np.float64), axis=1))
    return NoiseLevel(epsilon, proportion(same, len(y)), mean, low, high)


def _corrupt(
    split: Split, kind: str, severity: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    step = evaluate.MAX_BATCH
    parts = [
        corruptions.corrupt(split.images[i : i + step], kind, severity, rng)
        for i in range(0, len(split), step)
    ]
    return np.concatenate(parts)


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


def _share(wrong: npt.NDArray[np.int64]) -> Proportion:
    return proportion(int(wrong.sum()), len(wrong))
