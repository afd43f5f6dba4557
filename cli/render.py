"""What commands print on stdout: tables for people, one JSON object for machines."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fggp_deploy.verify.page import Page

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
        t.add_row(*(Text(cell) for cell in row))  # a layer may be called [bold]
    stdout.print(t)


def show_page(page: Page, written: Path | None) -> None:
    """Print a page's tables and sentences, and where it was written."""
    from fggp_deploy.verify.page import Table as PageTable

    if page.lead:
        stdout.print(page.lead, markup=False)
    for section in page.sections:
        for block in section.blocks:
            if not isinstance(block, PageTable):
                if block != page.lead:
                    stdout.print(block, markup=False)
            elif block.rows:
                table(section.title, block.head, block.rows)
                break  # the others are views of the first
    for note in page.notes:
        stdout.print(f"note: {note}", markup=False)
    if written is not None:
        stdout.print(str(written), markup=False)


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
