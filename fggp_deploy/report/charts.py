"""Charts as inline SVG, drawn by matplotlib, in colors that follow light and dark mode."""

from __future__ import annotations

import html
import importlib.util
import io
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from fggp_deploy.report import words
from fggp_deploy.report.page import Bars, Chart, Lines

# Charts are drawn in these colors, which are then replaced by the page's variables (page.css).
_SERIES = ("#0000a1", "#0000a2", "#0000a3", "#0000a4", "#0000a5", "#0000a6")
_INK, _FAINT = "#0000a0", "#0000a7"
_VARIABLES = {_INK: "--ink", _FAINT: "--line"} | {
    color: f"--series-{i}" for i, color in enumerate(_SERIES, 1)
}
# These networks look the same in every chart.
_OWN = {words.FILE: 0, words.NETWORKS["model"]: 0, words.DENSE: 1} | {
    words.NETWORKS["kernels"]: 2, words.NETWORKS["int8"]: 3
}  # fmt: skip
_MARKERS, _DASHES = "osD^vP", ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
_WIDTH, _ROW, _HEIGHT = 5.4, 0.21, 3.0  # inches; a row is one bar
MAX_BARS = 60
MAX_SPREAD = 2.5  # intervals are drawn up to so many times the longest bar
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, which can be searched and read by screen readers
    "svg.hashsalt": "fggp",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.4,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def available() -> bool:
    """Whether matplotlib is installed; it is optional."""
    return importlib.util.find_spec("matplotlib") is not None


def svg(chart: Chart, name: str) -> str | None:
    """One `<svg>` element whose ids begin with `name`; None without matplotlib."""
    if not available():
        return None
    import warnings

    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the measuring font lacks some characters
        figure = Figure(figsize=(_WIDTH, _height(chart)), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        if isinstance(chart, Bars):
            _bars(axes, chart)
        else:
            _lines(axes, chart)
        if len(chart.series) > 1 or (isinstance(chart, Lines) and chart.diagonal):
            figure.legend(loc="outside upper left", ncols=2 if len(chart.series) > 3 else 3)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return _inline(drawn.getvalue(), chart.title, name)


def visible(text: str) -> str:
    """Text whose control and format characters are replaced by a visible character."""
    hidden = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return "".join("\ufffd" if unicodedata.category(c) in hidden else c for c in text)


def _height(chart: Chart) -> float:
    if isinstance(chart, Lines):
        return _HEIGHT
    return 0.9 + _ROW * max(4, len(chart.labels[:MAX_BARS]) * (len(chart.series) + 0.4))


def _looks(series: Iterable[str]) -> dict[str, int]:
    """The index of each series' color, marker and dash; known networks always have their own."""
    names = list(series)
    taken = {_OWN[name] for name in names if name in _OWN}
    rest = itertools.cycle([i for i in range(len(_SERIES)) if i not in taken])
    return {name: _OWN[name] if name in _OWN else next(rest) for name in names}


def _bars(axes: Any, chart: Bars) -> None:
    labels = [_short(label) for label in chart.labels[:MAX_BARS]]
    step, looks = len(chart.series) + 0.4, _looks(chart.series)
    for i, (name, values) in enumerate(chart.series.items()):
        at = [step * row + i for row in range(len(labels))]
        values, error = list(values[:MAX_BARS]), None
        if name in chart.intervals:
            error = _errors(values, chart.intervals[name][:MAX_BARS])
        axes.barh(
            at, values, height=0.86, xerr=error, label=_short(name),
            color=_SERIES[looks[name]],
            error_kw={"ecolor": _INK, "elinewidth": 0.9, "capsize": 2},
        )  # fmt: skip
    axes.set_yticks([step * row + (len(chart.series) - 1) / 2 for row in range(len(labels))])
    axes.set_yticklabels(labels)
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    unit = chart.unit
    largest = max((v for values in chart.series.values() for v in values), default=0.0)
    if 0 < MAX_SPREAD * largest < axes.get_xlim()[1]:  # otherwise the bars are too short to compare
        axes.set_xlim(right=MAX_SPREAD * largest)
        unit += "; some intervals end beyond the edge"
    axes.set_xlabel(visible(unit))


def _lines(axes: Any, chart: Lines) -> None:
    from matplotlib.ticker import LogLocator

    looks = _looks(chart.series)
    for name, points in chart.series.items():
        i = looks[name]
        x, y = [p[0] for p in points], [p[1] for p in points]
        look = {
            "color": _SERIES[i],
            "linestyle": "none" if chart.scattered else _DASHES[i],
            "marker": None if chart.smooth else _MARKERS[i],
            "markersize": 7 if chart.scattered else 4,
            "label": _short(name),
        }
        if name in chart.intervals:
            error = _errors(y, chart.intervals[name])
            axes.errorbar(x, y, yerr=error, capsize=2, elinewidth=0.9, **look)
        else:
            axes.plot(x, y, **look)
    if chart.log:
        axes.set_xscale("log", subs=[])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
    if chart.diagonal:
        axes.plot([0, 1], [0, 1], color=_FAINT, linestyle=":", label="confidence = accuracy")
    axes.set_xlabel(visible(chart.x))
    axes.set_ylabel(visible(chart.y))


def _errors(
    values: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    pairs = list(zip(values, intervals, strict=True))
    return [max(0, v - low) for v, (low, _) in pairs], [max(0, high - v) for v, (_, high) in pairs]


def _short(text: str, limit: int = 28) -> str:
    text = visible(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _inline(drawn: str, title: str, name: str) -> str:
    """The `<svg>` element with its own ids, the page's colors, and a title for screen readers."""
    body = drawn[drawn.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.S)  # would style the whole page
    for color, variable in _VARIABLES.items():
        body = body.replace(color, f"var({variable})")
    body = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', body)
    body = re.sub(r'href="#([^"]*)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", body)
    box = re.search(r'viewBox="([^"]*)"', body)
    start = body.index(">") + 1
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box.group(1) if box else ""}" role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">{html.escape(visible(title))}; its numbers are in the table '
        "below</title>"
    )
    return head + body[start:]
