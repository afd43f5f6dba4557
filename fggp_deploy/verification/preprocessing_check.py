"""Whether a file records the preprocessing of its training: tries the common mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fggp_deploy.data.types import Images, Part, Preprocessing
from fggp_deploy.measure import evaluate
from fggp_deploy.measure.evaluate import Prepare
from fggp_deploy.measure.network import Floats, Network
from fggp_deploy.measure.statistics import Proportion, holm, mcnemar, proportion

MAX_IMAGES, MIN_IMAGES = 256, 64
SECOND_SAMPLE = 8  # times as many images
MAX_PIXELS = 256 * 32 * 32  # of a sample
MAX_GAIN_POINTS = 1.0
MAX_P = 0.001  # stricter than elsewhere: it fails a file
_USUAL: dict[int, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    1: {"no mean and std at all": ((0.0,), (1.0,)), "mean and std 0.5": ((0.5,), (0.5,))},
    3: {
        "no mean and std at all": ((0.0,) * 3, (1.0,) * 3),
        "mean and std 0.5": ((0.5,) * 3, (0.5,) * 3),
        "the mean and std of ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    },
}
REVERSED = "the channels in reverse order (RGB and BGR swapped)"


@dataclass(frozen=True)
class InputCheck:
    """Top-1 accuracy on `n` test images with the file's preprocessing and with alternatives.

    `best` is the alternative that gains most, if any gains: by `gain_points`, with McNemar's
    `p_value` after Holm's correction for all alternatives. An alternative in `tried` that gained
    nothing on a smaller sample was not tried on all `n`.
    """

    n: int
    as_given: Proportion
    tried: dict[str, Proportion]
    best: str | None
    gain_points: float
    p_value: float

    @property
    def passed(self) -> bool:
        """Whether no alternative is better by more than a point and more than chance."""
        return self.gain_points <= MAX_GAIN_POINTS or self.p_value >= MAX_P


def check_inputs(
    network: Network,
    split: Part,
    given: Preprocessing,
    others: Mapping[str, Preprocessing],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> InputCheck:
    """Compare the preprocessing `given` with `others` by name and with the common mistakes.

    Alternatives equal to `given` are not tried. The first sample has 256 images over all classes
    (fewer if they are large), chosen by `seed`. If an alternative gains more than a point, the next
    sample has eight times as many, and the last is the whole split; only that can fail a file.
    `progress(done, total)` counts images. Raises DataError for an empty split.
    """
    n = int(np.clip(MAX_PIXELS // (given.height * given.width), MIN_IMAGES, MAX_IMAGES))
    ways = _alternatives(given, others)
    n_ways, tried = len(ways), dict[str, Proportion]()
    for n_images in (n, SECOND_SAMPLE * n, len(split)):
        some = split.sample(n_images, seed=seed)
        found = _compare(network, some, given, ways, n_ways=n_ways, progress=progress)
        tried |= found.tried
        ways = {
            name: way
            for name, way in ways.items()
            if _points(found.tried[name], found.as_given) > MAX_GAIN_POINTS
        }
        if not ways or len(some) == len(split):
            break
    return dataclasses.replace(found, tried=tried)


def _compare(
    network: Network,
    split: Part,
    given: Preprocessing,
    ways: Mapping[str, Prepare],
    *,
    n_ways: int,
    progress: Callable[[int, int], None],
) -> InputCheck:
    """Try `ways`, which remain of `n_ways`, on all of `split`."""
    total = (1 + len(ways)) * len(split)

    def right(i: int, prepare: Prepare) -> npt.NDArray[np.bool_]:
        def report(done: int, _: int) -> None:
            progress(i * len(split) + done, total)

        return evaluate.hits(evaluate.logits(network, split, prepare, report), split.labels, 1)

    own = right(0, given)
    found = {name: right(i, way) for i, (name, way) in enumerate(ways.items(), start=1)}
    p_values = [mcnemar(int((own & ~r).sum()), int((r & ~own).sum())) for r in found.values()]
    adjusted = holm(p_values + [1.0] * (n_ways - len(ways)))
    as_given = proportion(int(own.sum()), len(split))
    tried = {name: proportion(int(hit.sum()), len(split)) for name, hit in found.items()}
    best, gain, p_value = None, 0.0, 1.0
    for (name, share), p in zip(tried.items(), adjusted, strict=False):
        if (points := _points(share, as_given)) > gain:
            best, gain, p_value = name, points, p
    return InputCheck(len(split), as_given, tried, best, gain, p_value)


def _points(share: Proportion, as_given: Proportion) -> float:
    """Percentage points that a way gains over the given one on the same images."""
    return 100 * (share.k - as_given.k) / as_given.n


@dataclass(frozen=True)
class _Reversed:
    """A preprocessing of images whose channels are in reverse order."""

    own: Preprocessing

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.own.input_shape

    def __call__(self, images: Images) -> Floats:
        return self.own(images[..., ::-1])


def _alternatives(given: Preprocessing, others: Mapping[str, Preprocessing]) -> dict[str, Prepare]:
    """The alternatives by name, without `given`; of two equal ones the first."""
    usual = {
        name: dataclasses.replace(given, mean=mean, std=std)
        for name, (mean, std) in _USUAL.get(given.channels, {}).items()
    }
    ways: dict[str, Prepare] = {}
    for name, way in {**others, **usual}.items():
        known = way == given or way in ways.values()
        if way.input_shape == given.input_shape and not known:
            ways[name] = way
    if given.channels == 3:
        ways[REVERSED] = _Reversed(given)
    return ways
