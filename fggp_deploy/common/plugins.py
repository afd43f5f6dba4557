"""Finds pruning methods that other installed packages register by an entry point.

It does not import them.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

GROUP = "fggp_deploy.methods"


def method_entry_points() -> dict[str, EntryPoint]:
    """The entry points by method name; looked up once, until sys.path changes."""
    return dict(_on(tuple(sys.path)))


def package_of(point: EntryPoint) -> str:
    """The name of the package that an entry point comes from."""
    return point.dist.name if point.dist else point.value


@lru_cache(maxsize=4)
def _on(_: tuple[str, ...]) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
