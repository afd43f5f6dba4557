"""Measures how rounding the values changes a network's outputs, on the same generated inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fggp_deploy.errors import FggpWarning
from fggp_deploy.graph.comparison import ROUNDED_RTOL, Array, relative_error

N_INPUTS = 16
_MANY = 0.05  # share of the inputs whose class may change without a warning

Feeds = Mapping[str, Any]
Forward = Callable[[Feeds], Sequence[Array]]


@dataclass(frozen=True)
class Rounding:
    """`error` is the largest change of an output over its largest value.

    `n_changed` of `n` inputs get another top-1 class; None if the network is not a classifier.
    `values` is the type of the rounded weights; `activations` says that these were quantized too.
    """

    values: str
    error: float
    n: int
    n_changed: int | None
    activations: bool = False

    @property
    def is_large(self) -> bool:
        """Whether a user should look at the accuracy before shipping the file."""
        return not self.error <= ROUNDED_RTOL or (self.n_changed or 0) > _MANY * self.n

    def sentence(self) -> str:
        """One line for the user."""
        what = f"{self.values} values{' and activations' * self.activations}"
        text = (
            f"{what} change the outputs by up to {self.error:.1e} of the largest on "
            f"{self.n} made-up inputs"
        )
        if self.n_changed is not None:
            text += f" and the top-1 class of {self.n_changed} of them"
        return f"{text}; measure the accuracy on your own data"


def rounding(values: str, exact: Forward, rounded: Forward, inputs: Iterable[Feeds]) -> Rounding:
    """Run a network before and after rounding on `inputs`, each a batch."""
    error, n, n_changed, is_classifier = 0.0, 0, 0, True
    for feeds in inputs:
        before, after = list(exact(feeds)), list(rounded(feeds))
        found = relative_error(after, before)
        error = found if not error >= found else error
        is_classifier &= len(before) == 1 and _are_scores(before[0])
        if is_classifier:
            n_changed += int((after[0].argmax(1) != before[0].argmax(1)).sum())
        n += len(before[0]) if is_classifier else 1
    return Rounding(values, error, n, n_changed if is_classifier else None)


def warn(found: Rounding) -> None:
    """Warn if rounding changed much, for callers that do not read notes."""
    if found.is_large:
        warnings.warn(f"{found.sentence()} before you ship the file", FggpWarning, stacklevel=4)


def _are_scores(y: Array) -> bool:
    """Whether an output is [inputs, classes]."""
    return y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind == "f"
