"""A page before it is rendered as Markdown or HTML: sections of sentences, tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LONG = 44  # characters of a cell
Pairs = Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Bars:
    """Horizontal bars: for each label one value of each series, with optional intervals.

    `series` and `intervals` are keyed by name and have one entry per label; `unit` labels the axis.
    """

    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]
    unit: str
    intervals: Pairs = field(default_factory=dict)


@dataclass(frozen=True)
class Lines:
    """Curves of (x, y) points, with an optional interval of y at each point.

    `diagonal` adds the line y = x, `smooth` omits the markers, `scattered` omits the lines, and
    `log` makes the x axis logarithmic.
    """

    title: str
    series: Pairs
    x: str
    y: str
    intervals: Pairs = field(default_factory=dict)
    diagonal: bool = False
    smooth: bool = False
    scattered: bool = False
    log: bool = False


Chart = Bars | Lines


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first column names the row, and `chart` shows the same numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    chart: Chart | None = None

    @staticmethod
    def is_sentence(cell: str) -> bool:
        """Whether a cell is long enough to be broken into lines."""
        return len(cell) > LONG

    @property
    def has_sentences(self) -> bool:
        """Whether any cell is a sentence; a narrow page then stacks the cells of a row."""
        return any(self.is_sentence(cell) for row in self.rows for cell in row[1:])

    @property
    def in_words(self) -> list[bool]:
        """For each column, whether it holds words, which are aligned to the left, or figures."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.head)
        return [any(cell[:1].isalpha() or cell[:1] == "{" for cell in c) for c in columns]


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs and tables."""

    title: str
    blocks: Sequence[str | Table]


@dataclass(frozen=True)
class Glance:
    """A row of the summary: `what`, the dense model's value, this file's, and the difference.

    `failed` names the checks and gates on this figure that failed.
    """

    what: str
    reference: str
    model: str
    difference: str
    failed: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A whole page. `passed` is its verdict, None without one; `failures` say what failed."""

    title: str
    lead: str
    passed: bool | None
    glance: Sequence[Glance]
    notes: Sequence[str]
    sections: Sequence[Section]
    failures: Sequence[str] = ()
