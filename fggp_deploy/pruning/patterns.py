"""In which shapes weights go together; needs no torch."""

from __future__ import annotations

from fggp_deploy.errors import UnknownName

PATTERNS = {f"1x{n}": n for n in (2, 4, 8, 16)}


def width_of(pattern: str | None) -> int:
    """Inputs in a block of a pattern, 1 without one; raises UnknownName.

    >>> width_of("1x4"), width_of(None)
    (4, 1)
    """
    if pattern is None:
        return 1
    if pattern not in PATTERNS:
        raise UnknownName("pattern", pattern, PATTERNS)
    return PATTERNS[pattern]
