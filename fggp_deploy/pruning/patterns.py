"""Patterns: block shapes that are removed as one. Needs no torch."""

from __future__ import annotations

from fggp_deploy.errors import UnknownName

PATTERNS = {f"1x{n}": n for n in (2, 4, 8, 16)}


def width_of(pattern: str | None) -> int:
    """Number of inputs in a block of the pattern, 1 without a pattern. Raises UnknownName.

    >>> width_of("1x4"), width_of(None)
    (4, 1)
    """
    if pattern is None:
        return 1
    if pattern not in PATTERNS:
        raise UnknownName("pattern", pattern, PATTERNS)
    return PATTERNS[pattern]
