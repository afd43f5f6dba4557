"""A page as one HTML file that loads nothing: the style is inside, charts are inline SVG."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fggp_deploy.report import charts
from fggp_deploy.report.page import Page, Table


def html(page: Page) -> str:
    """Render a whole page; without matplotlib it has tables but no charts."""
    return _environment().get_template("page.html.j2").render(page=page)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,  # text from a model file is never markup
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files(__package__).joinpath("templates", "page.css").read_text("utf-8")
    environment.globals |= {"style": Markup(style), "draw": _draw, "breakable": _breakable}
    return environment


def _draw(chart: Any, name: str) -> Markup | None:
    svg = charts.svg(chart, name)
    return None if svg is None else Markup(svg)


def _breakable(cell: str) -> Markup | str:
    """A cell's text; its line may break before an interval in brackets but not inside it."""
    found = re.fullmatch(r"([^ ([]+) ([([].*)", charts.visible(cell))
    if found is None or Table.is_sentence(cell):
        return cell
    return Markup('{} <span class="whole">{}</span>').format(*found.groups())


def _visible(value: Any) -> Any:
    """Text without characters that could hide or reverse the text around them."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return charts.visible(value)
