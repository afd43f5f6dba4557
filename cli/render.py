"""What commands print on stdout: tables for people, one JSON object for machines."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from fggp_deploy.common.printable import printable

from .console import SafeConsole
from .console_characters import has_unicode

if TYPE_CHECKING:
    from fggp_deploy.report.page import Page

# rich assumes 80 columns without a terminal, in which many tables do not fit
_width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120


_MAX_NOTES = 10
_LEAST_NAME = 12  # characters of a name in one line of a table; a longer one is folded


class _Stdout(SafeConsole):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # `| head` is not an error; see exit_codes


stdout = _Stdout(highlight=False, soft_wrap=True, width=_width, emoji=False, markup=False)


def as_json(value: Any) -> None:
    """Print a dataclass or plain structure as one JSON object."""
    print(json_text(value, ascii_only=not has_unicode(sys.stdout.encoding)))


def json_text(value: Any, *, ascii_only: bool = False) -> str:
    """A dataclass or plain structure as indented JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return printable(json.dumps(value, indent=2, default=_plain, ensure_ascii=ascii_only))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table that fits the terminal; the first column is text, the others are figures.

    Long cells are wrapped between words, names in the first column also within one. If there
    is no room for its lines, the table has none; if there is no room for the figures, each row
    becomes a list.
    """
    rows, n = [[_in_one_line(cell) for cell in row] for row in rows], len(columns)
    t = Table(title=title, title_justify="left")
    widths = column_widths(columns, rows, room=stdout.width - 3 * n - 1)
    if widths is None:
        t.box, t.padding, t.pad_edge = None, (0, 2, 0, 0), False
        widths = column_widths(columns, rows, room=stdout.width - 2 * n + 2)
    if widths is None:
        return _listed(title, columns, rows)
    for i, (name, width) in enumerate(zip(columns, widths, strict=True)):
        t.add_column(name, justify="right" if i else "left", width=width, overflow="fold")
    for row in rows:
        t.add_row(*(Text(cell) for cell in row))  # a layer may be called [bold]
    return stdout.print(t)


def column_widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, room: int
) -> list[int] | None:
    """How wide to make each column so that all fit in `room` characters; None if they cannot.

    >>> column_widths(("layer", "why"), [("conv1", "too small to gain")], room=20)
    [5, 15]
    >>> column_widths(("layer", "why"), [("conv1", "too small to gain")], room=7) is None
    True
    """
    cells = list(zip(columns, *rows, strict=True))
    full = [max(map(cell_len, column)) for column in cells]
    least = [max(cell_len(word) for cell in column for word in [*cell.split(), ""])
             for column in cells]  # fmt: skip
    least[0] = min(least[0], _LEAST_NAME)
    if sum(least) > room:
        return None
    widths = least
    for i in sorted(range(len(full)), key=lambda i: full[i] - least[i]):  # the cheapest first
        widths[i] = min(full[i], widths[i] + room - sum(widths))
    return widths


def _listed(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print each row as a paragraph, for a terminal that is too narrow for a table."""
    lines = [title]
    for row in rows:
        lines.append(f"- {columns[0]} {row[0]}" if columns[0] else f"- {row[0]}")
        lines += [f"  {name}: {cell}" for name, cell in zip(columns[1:], row[1:], strict=True)]
    for line in lines:
        stdout.print(line, soft_wrap=False, overflow="fold")


def show_page(page: Page, written: Path | None) -> None:
    """Print a page's tables and sentences, and where it was written."""
    from fggp_deploy.report.page import Table as PageTable

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


def show_notes(notes: Sequence[str]) -> None:
    """Print the first notes, and how many more there are."""
    for line in notes[:_MAX_NOTES]:
        stdout.print(f"note: {line}")
    if len(notes) > _MAX_NOTES:
        stdout.print(f"… and {len(notes) - _MAX_NOTES} more; --json has them all")


def size(n_bytes: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.2f} {unit}"
    return f"{n_bytes:.0f} B"


def _in_one_line(cell: str) -> str:
    """A cell whose line ends and control characters are shown: names come from files."""
    return printable(cell).replace("\n", "\\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(type(value).__name__)
