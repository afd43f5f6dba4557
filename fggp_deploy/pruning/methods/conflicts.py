"""Options of one method that undo each other; one name means one thing in every method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fggp_deploy.pruning.methods.parts.reinit import ORTHP, REWIND


def conflict(given: Mapping[str, Any], options: Mapping[str, Any], *, from_random: bool) -> str:
    """Why one of the `given` options changes nothing, or undoes another; "" where all are fine.

    given: those of `options`, a method's own, that are not at their default.

    >>> conflict({"ridge": 0.5}, {"ridge": 0.5, "reinit": "orthp"}, from_random=False)
    'ridge is not read with reinit=orthp, which takes the place of the re-fit; leave it out'
    """
    reinit = options.get("reinit")
    if given.get("ridge") and reinit == ORTHP:
        return (
            "ridge is not read with reinit=orthp, which takes the place of the re-fit; leave it out"
        )
    if "rewind_epoch" in given and reinit != REWIND:
        return f"rewind_epoch is not read with reinit={reinit}, which rewinds nothing; leave it out"
    if "regrow_to" in given and given["regrow_to"] > options["regrow"]:
        return (
            f"regrow_to {given['regrow_to']:g} is above regrow {options['regrow']:g}, from which "
            f"the share falls to it; give a smaller one"
        )
    if "start_sparsity" in given and not from_random:
        return (
            "start_sparsity is a random mask to begin with, which would throw away what a trained "
            "network has learned; give --start random too"
        )
    return ""
