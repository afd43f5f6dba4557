"""The methods that other installed packages offer by an entry point; none is imported here."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

GROUP = "fggp_deploy.methods"


def offered() -> dict[str, EntryPoint]:
    """By the method's name; what is installed is looked up once, as long as sys.path stays."""
    return dict(_on(tuple(sys.path)))


def package_of(point: EntryPoint) -> str:
    """The name of the package that an entry point comes from."""
    return point.dist.name if point.dist else point.value


@lru_cache(maxsize=4)
def _on(_: tuple[str, ...]) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
