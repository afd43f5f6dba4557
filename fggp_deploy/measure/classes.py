"""Accuracy by class: which classes lost more than chance explains, corrected for their number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fggp_deploy.data.types import Labels
from fggp_deploy.measure.statistics import (
    ALPHA,
    Proportion,
    difference_interval,
    holm,
    mcnemar,
    proportion,
)


@dataclass(frozen=True)
class ClassChange:
    """Top-1 accuracy on the test images of one class, of the model and of its dense model.

    `drop_points` and its 95% interval [drop_low, drop_high] are as in `Paired`. `p_value` is the
    exact McNemar test of this class alone; `p_holm` is the same after Holm's correction for the
    number of classes. Use only `p_holm` to select classes.
    """

    name: str
    model: Proportion
    reference: Proportion
    lost: int
    gained: int
    drop_points: float
    drop_low: float
    drop_high: float
    p_value: float
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether the change is more than chance explains, corrected for the number of classes."""
        return self.p_holm < ALPHA


def by_class(
    right: npt.NDArray[np.bool_],
    reference_right: npt.NDArray[np.bool_],
    labels: Labels,
    names: Sequence[str],
) -> tuple[ClassChange, ...]:
    """Split the paired outcomes [N] by label; a class without test images is left out."""
    tables = []
    for index, name in enumerate(names):
        own = labels == index
        if n := int(own.sum()):
            hit, reference_hit = right[own], reference_right[own]
            lost, gained = int((reference_hit & ~hit).sum()), int((hit & ~reference_hit).sum())
            tables.append((name, n, int(hit.sum()), int(reference_hit.sum()), lost, gained))
    p_values = [mcnemar(lost, gained) for *_, lost, gained in tables]
    changes = []
    for (name, n, k, reference_k, lost, gained), p, p_holm in zip(
        tables, p_values, holm(p_values), strict=True
    ):
        low, high = difference_interval(lost, gained, n)
        changes.append(
            ClassChange(
                name,
                proportion(k, n),
                proportion(reference_k, n),
                lost,
                gained,
                100 * (lost - gained) / n,
                100 * low,
                100 * high,
                p,
                p_holm,
            )
        )
    return tuple(changes)


def lost_most(changes: Iterable[ClassChange]) -> list[ClassChange]:
    """The classes that lost more than chance explains, the largest loss first."""
    found = [c for c in changes if c.significant and c.drop_points > 0]
    return sorted(found, key=lambda c: -c.drop_points)
