"""A page as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fggp_deploy.common.printable import printable
from fggp_deploy.report.page import Glance, Page, Section, Table


def markdown(page: Page) -> str:
    """Render a whole page; charts are omitted, because their tables have the numbers."""
    word = {True: "PASSED: ", False: "FAILED: ", None: ""}[page.passed]
    parts = [f"# {word}{_line(page.title)}"]
    if page.lead:
        parts.append(_line(page.lead))
    if page.failures:
        parts.append("\n".join(f"- FAIL {_line(failure)}" for failure in page.failures))
    if page.glance:
        rows = [(g.what, g.reference, g.model, _difference(g)) for g in page.glance]
        parts.append(table(["", "dense model", "this file", "difference"], rows))
    parts += [f"Note: {_line(note)}" for note in page.notes]
    parts += [_section(section) for section in page.sections]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars, tags and line breaks in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _difference(g: Glance) -> str:
    return g.difference + (f"; FAIL: {', '.join(g.failed)}" if g.failed else "")


def _section(section: Section) -> str:
    parts = [f"## {_line(section.title)}"]
    for block in section.blocks:
        if isinstance(block, Table):
            parts += [_line(block.caption), table(block.head, block.rows)]
        else:
            parts.append(_line(block))
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    return printable(" ".join(text.replace("<", "&lt;").split()))
