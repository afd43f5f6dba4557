"""The function by which a long computation reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what is being done, done, total)


def silent(what: str, done: int, total: int) -> None:
    """A Progress that ignores its reports."""
