"""Two networks on the same noise: whether they still predict the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from fggp_deploy.data.types import Images, Preprocessing
from fggp_deploy.measure.network import Floats
from fggp_deploy.measure.statistics import Proportion, mean_interval, proportion


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


def noisy(x: Floats, epsilon: float, rng: np.random.Generator) -> Floats:
    """x + 2ε(u − ½) with u uniform in [0, 1), float32 of the shape of x."""
    u = rng.random(x.shape, dtype=np.float32)
    return x + np.float32(2 * epsilon) * (u - np.float32(0.5))


class Noisy:
    """A preprocessing followed by noise; the same seed gives the same noise."""

    def __init__(self, own: Preprocessing, epsilon: float, seed: tuple[int, ...]) -> None:
        self.own, self.epsilon = own, epsilon
        self._rng = np.random.default_rng(seed)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """See evaluate.Prepare."""
        return self.own.input_shape

    def __call__(self, images: Images) -> Floats:
        """See evaluate.Prepare."""
        return noisy(self.own(images), self.epsilon, self._rng)


def noise_level(epsilon: float, y: Floats, expected: Floats) -> NoiseLevel:
    """Compare logits y with those of the dense model, [N, classes] both, under noise ε."""
    same = int((y.argmax(1) == expected.argmax(1)).sum())
    gap = special.softmax(y, axis=1) - special.softmax(expected, axis=1)
    mean, low, high = mean_interval(np.linalg.norm(gap.astype(np.float64), axis=1))
    return NoiseLevel(epsilon, proportion(same, len(y)), mean, low, high)
