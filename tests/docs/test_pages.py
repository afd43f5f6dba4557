"""The documentation: its links, its width, and the names and arrows of the architecture page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_layout import MAY_IMPORT

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("README.md")),
]  # fmt: skip
ARCHITECTURE = ROOT / "docs" / "architecture.md"
HOMES = (ROOT, ROOT / "fggp_deploy", ROOT / "fggp_deploy" / "kernels" / "csrc")


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = (re.sub(r"[^\w\- ]", "", h) for h in re.findall(r"^#+ (.*)$", text, flags=re.M))
    return {h.lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_have_at_most_100_columns(page):
    for line in page.read_text().splitlines():
        assert len(line) <= 100 or line.startswith("|"), line


def test_the_architecture_page_names_what_exists():
    found = re.findall(r"`([\w./]+\.(?:py|cpp|h|inl))(?::([\w.]+))?`", ARCHITECTURE.read_text())
    assert len(found) > 30
    for path, name in found:
        files = [home / path for home in HOMES if (home / path).is_file()]
        assert files, path
        last = name.rpartition(".")[2]
        made = rf"(?:(?:def|class|struct) {last}\b|^{last}\b.*=|\b{last}\()"
        assert re.search(made, files[0].read_text(), flags=re.M), f"{path}:{name}"


def test_the_diagram_of_packages_has_the_allowed_arrows():
    """It leaves out an arrow if a longer way leads to the same package."""
    (diagram,) = re.findall(r"flowchart TD\n(.*?)```", ARCHITECTURE.read_text(), flags=re.DOTALL)
    drawn = set()
    for start, ends in re.findall(r"(\w+) --> (.*)", diagram):
        drawn |= {(start, end) for end in ends.split(" & ")}
    arrows = {own: set(others.split()) for own, others in MAY_IMPORT.items()}

    def below(package: str) -> set[str]:
        return arrows[package].union(*(below(other) for other in arrows[package]))

    direct = {
        (own, other)
        for own, others in arrows.items()
        for other in others
        if not any(other in below(between) for between in others - {other})
    }
    assert drawn == direct
