"""One-shot magnitude pruning without training, with a closed-form re-fit."""

from __future__ import annotations

from dataclasses import dataclass

from fggp_deploy.pruning.allocation import ALLOCATIONS, GLOBAL
from fggp_deploy.pruning.methods.method import MethodInfo
from fggp_deploy.pruning.methods.options import setting
from fggp_deploy.pruning.methods.parts.one_shot import OneShotOptions


@dataclass(frozen=True, kw_only=True)
class MagnitudeOptions(OneShotOptions):
    """The options of magnitude, with which all layers may compete."""

    allocation: str = setting(
        GLOBAL, "How many weights each layer keeps: all weights compete, or by an allocation.",
        choices=(GLOBAL, *ALLOCATIONS),
    )  # fmt: skip


METHOD = MethodInfo(
    title="one shot by |w|, then the closed-form re-fit",
    source="Han et al. 2015, arXiv 1506.02626; re-fit: ours",
    make=lambda o, task: o.one_shot(None, task),
    options=MagnitudeOptions,
    starts=("dense", "sparse"),
    because="it preserves what a trained network computes, layer by layer",
    without_training=True,
)
