"""What commands print on stdout: tables for people, one JSON object for machines."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# 80 columns, which rich assumes where there is no terminal, would fold every table
_width = None if sys.stdout.isatty() else 120


class _Stdout(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # `| head` is no failure; see endings


stdout = _Stdout(highlight=False, soft_wrap=True, width=_width, emoji=False, markup=False)


def as_json(value: Any) -> None:
    """Print a dataclass or plain structure as one JSON object."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """A dataclass or plain structure as indented JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.dumps(value, indent=2, default=_plain, ensure_ascii=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are figures."""
    t = Table(*columns[:1], title=title, title_justify="left")
    for name in columns[1:]:
        t.add_column(name, justify="right")
    for row in rows:
        t.add_row(*row)
    stdout.print(t)


def size(n_bytes: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.2f} {unit}"
    return f"{n_bytes:.0f} B"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(type(value).__name__)
