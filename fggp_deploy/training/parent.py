"""The parent before anything is pruned: whether it sees what it was trained on."""

from __future__ import annotations

import warnings

from fggp_deploy.errors import FggpWarning
from fggp_deploy.training.loop import accuracy
from fggp_deploy.training.session import Session

_ABOVE_CHANCE = 0.1  # of the way from chance to 1


def parent_accuracy(s: Session) -> float | None:
    """Top-1 accuracy of the parent on the validation images, 0 to 1; None without a parent.

    Warns when that is near chance, as it is with another normalisation than the parent's own. All
    ranks call.
    """
    if s.teacher is None:
        return None
    found = accuracy(s.teacher, s.batches(s.data.val))
    chance = 1 / len(s.data.classes)
    if found < chance + _ABOVE_CHANCE * (1 - chance):
        p = s.data.preprocessing
        warnings.warn(
            f"the parent is right on {found:.1%} of the validation images, and guessing is on "
            f"{chance:.1%}: were --mean {_numbers(p.mean)} --std {_numbers(p.std)}, the image size "
            f"and the order of the classes those that it was trained with?",
            FggpWarning,
            stacklevel=2,
        )
    return found


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{v:g}" for v in values)
