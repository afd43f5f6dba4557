"""Whether the network is fed as it was trained: tries the usual mistakes and names the one made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fggp_deploy.data.types import Part, Preprocessing, Split
from fggp_deploy.verify import accuracy
from fggp_deploy.verify.network import Network
from fggp_deploy.verify.proportions import Proportion, holm, mcnemar, proportion

MAX_IMAGES, MIN_IMAGES = 256, 64
SECOND_LOOK = 8  # times as many images, where one way gains and chance is not ruled out
MAX_PIXELS = 256 * 32 * 32  # larger images, fewer of them
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
    """Top-1 accuracy on the first `n` test images, as the file says and otherwise prepared.

    `best` is the other way that gains most, if any gains: by `gain_points`, McNemar's `p_value`
    after Holm's correction for the ways tried, doubled where it took a second look.
    """

    n: int
    as_given: Proportion
    tried: dict[str, Proportion]
    best: str | None
    gain_points: float
    p_value: float

    @property
    def passed(self) -> bool:
        """False where another way is better by more than a point and more than chance."""
        return self.gain_points <= MAX_GAIN_POINTS or self.p_value >= MAX_P


def check_inputs(
    network: Network, split: Part, given: Preprocessing, others: Mapping[str, Preprocessing]
) -> InputCheck:
    """Compare the preprocessing `given` with `others` by name and with the common mistakes.

    Those equal to `given` are not tried. The first 256 images tell (fewer of large ones); where one
    way gains there but it may be chance, eight times as many. Raises DataError for an empty split.
    """
    n = int(np.clip(MAX_PIXELS // (given.height * given.width), MIN_IMAGES, MAX_IMAGES))
    ways = {name: p for name, p in _alternatives(given, others).items() if p != given}
    found = _try(network, split, given, ways, n)
    if found.best is not None and found.gain_points > MAX_GAIN_POINTS and found.p_value >= MAX_P:
        found = _try(network, split, given, ways, SECOND_LOOK * n)
        # one of two looks
        found = dataclasses.replace(found, p_value=min(1.0, 2 * found.p_value))
    return found


def _try(
    network: Network, split: Part, given: Preprocessing, ways: Mapping[str, Preprocessing], n: int
) -> InputCheck:
    n = min(n, len(split))
    some = Split(split.read(slice(0, n)), split.labels[:n])

    def right(images: Split, preprocessing: Preprocessing) -> npt.NDArray[np.bool_]:
        return accuracy.hits(accuracy.logits(network, images, preprocessing), images.labels, 1)

    own = right(some, given)
    found = {name: right(some, p) for name, p in ways.items()}
    if given.channels == 3:
        found[REVERSED] = right(Split(some.images[..., ::-1], some.labels), given)
    total = len(some)
    p_values = holm([mcnemar(int((own & ~r).sum()), int((r & ~own).sum())) for r in found.values()])
    best, gain, p_value = None, 0.0, 1.0
    for (name, hit), p in zip(found.items(), p_values, strict=True):
        points = 100 * (int(hit.sum()) - int(own.sum())) / total
        if points > gain:
            best, gain, p_value = name, points, p
    return InputCheck(
        n=total,
        as_given=proportion(int(own.sum()), total),
        tried={name: proportion(int(hit.sum()), total) for name, hit in found.items()},
        best=best,
        gain_points=gain,
        p_value=p_value,
    )


def _alternatives(
    given: Preprocessing, others: Mapping[str, Preprocessing]
) -> dict[str, Preprocessing]:
    """By name; of two equal ones the first."""
    usual = {
        name: dataclasses.replace(given, mean=mean, std=std)
        for name, (mean, std) in _USUAL.get(given.channels, {}).items()
    }
    ways: dict[str, Preprocessing] = {}
    for name, way in {**others, **usual}.items():
        if way.input_shape == given.input_shape and way not in ways.values():
            ways[name] = way
    return ways
