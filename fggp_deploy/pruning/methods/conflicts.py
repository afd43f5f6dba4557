"""Conflicts between options of one method; an option name means the same in every method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fggp_deploy.pruning.methods.parts.reinit import ORTHP, REWIND


def conflict(given: Mapping[str, Any], options: Mapping[str, Any], *, from_random: bool) -> str:
    """Why one of the `given` options has no effect or contradicts another; "" if none does.

    given: those of the method's `options` that differ from their defaults.

    >>> conflict({"ridge": 0.5}, {"ridge": 0.5, "reinit": "orthp"}, from_random=False)
    'ridge has no effect with reinit=orthp, which replaces the re-fit; leave it out'
    """
    reinit = options.get("reinit")
    if given.get("ridge") and reinit == ORTHP:
        return "ridge has no effect with reinit=orthp, which replaces the re-fit; leave it out"
    if "rewind_epoch" in given and reinit != REWIND:
        return (
            f"rewind_epoch has no effect with reinit={reinit}, which does not rewind; leave it out"
        )
    if "regrow_to" in given and given["regrow_to"] > options["regrow"]:
        return (
            f"regrow_to {given['regrow_to']:g} is above regrow {options['regrow']:g}, but the "
            f"fraction falls from regrow to regrow_to; give a smaller value"
        )
    if "start_sparsity" in given and not from_random:
        return (
            "start_sparsity starts with a random mask, which would discard what a trained network "
            "has learned; add --start random"
        )
    return ""
