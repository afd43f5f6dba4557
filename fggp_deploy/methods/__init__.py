"""Pruning methods by name; each is one file here and one line in METHODS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fggp_deploy.criteria import FGGP, Criterion, Magnitude
from fggp_deploy.errors import UnknownName
from fggp_deploy.masks import MaskSet
from fggp_deploy.methods.state import PruningState

__all__ = ["METHODS", "Method", "MethodInfo", "criterion"]


class Method(Protocol):
    """What a Pruner drives: four moments of a training run."""

    def start(self, state: PruningState) -> None:
        """Before the first step: masks, extra parameters."""
        ...

    def after_backward(self, state: PruningState, step: int) -> None:
        """Gradients are there; may read and change `.grad`, may change masks."""
        ...

    def after_step(self, state: PruningState, step: int) -> None:
        """The optimiser has stepped: re-zero weights and optimiser state."""
        ...

    def finish(self, state: PruningState) -> MaskSet:
        """The final hard masks."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the method remembers from step to step: tensors and plain JSON types."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        ...


@dataclass(frozen=True)
class MethodInfo:
    """A method as the command line offers it: `make(rate)` gives its criterion."""

    title: str
    source: str
    make: Callable[[float], Criterion]


METHODS = {
    "fggp": MethodInfo(
        "fixed-rate gradient-first gradual pruning", "arXiv 2411.05500", lambda rate: FGGP(rate)
    ),
    "gmp": MethodInfo(
        "global gradual magnitude pruning", "arXiv 1710.01878", lambda rate: Magnitude()
    ),
}


def criterion(name: str, *, rate: float = 0.5) -> Criterion:
    """The criterion of a registered method; raises UnknownName."""
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    return METHODS[name].make(rate)
