"""The page as a reader has it: one file, valid, escaped, with charts where matplotlib is there."""

from __future__ import annotations

import dataclasses
import html as escapes
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from PIL import Image
from verified import dataset, metadata, network

from fggp_deploy.exporters import onnx as packed_onnx
from fggp_deploy.report import charts, sections
from fggp_deploy.report.files import write_report
from fggp_deploy.report.html import html
from fggp_deploy.report.markdown import markdown
from fggp_deploy.report.page import Bars, Glance, Lines, Page, Section, Table
from fggp_deploy.verification.gates import Gates
from fggp_deploy.verification.options import VerifyOptions
from fggp_deploy.verification.schema import SCHEMA_FILE, schema
from fggp_deploy.verification.verify import verify

pytestmark = pytest.mark.usefixtures("shapes_in_process")

ROOT = Path(__file__).parents[2]
HOSTILE = "</title><script>alert(1)</script>\"' onload=x $\\frac{ --> \u202e&amp;\x00"
VOID = {"meta", "link", "br"}


class Checker(HTMLParser):
    """Collects what tests ask of, and fails on a tag that is closed wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without its start"
        assert self.open.pop() == tag


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    ids = [a["id"] for _, a in checker.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in checker.tags:
        for key in ("aria-labelledby", "href", "xlink:href"):
            target = attributes.get(key) or ""
            if key == "aria-labelledby" and target:
                assert target in ids
            elif target.startswith("#"):
                assert target[1:] in ids
    return checker


def small_page(text: str = "a") -> Page:
    bars = Bars(text, [text, "b"], {"model": [1, 2], text: [2, 3]}, text,
                {"model": [(0.5, 1.5), (1, 3)]})  # fmt: skip
    lines = Lines(text, {"model": [(0.1, 1), (2, 2)], text: [(1, 1)]}, text, text, log=True)
    tables = [Table(text, [text, "x"], [(text, text)], chart) for chart in (bars, lines)]
    return Page(text, text, False, [Glance(text, text, text, text)], [text],
                [Section(text, [text, *tables])])  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """The page of a whole verification."""
    place = tmp_path_factory.mktemp("page")
    (place / "reference.onnx").write_bytes(network(0.0).SerializeToString())
    packed_onnx.export(network(0.95), metadata(network(0.95)), place / "model.onnx")
    (place / "metrics.jsonl").write_text(
        '{"epoch": 1, "loss": 1.5, "val_accuracy": 0.5, "sparsity": 0.9}\nnonsense\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FGGP_KERNELS", "none")
        found = verify(
            place / "model.onnx",
            data=dataset(n=60),
            options=VerifyOptions(threads=(1,), batches=(1, 2), seconds=0.001, robustness="quick"),
        )
    write_report(found, place)
    return (place / "report.html").read_text()


def test_the_page_stands_alone(page):
    checker = checked(page)
    names = {tag for tag, _ in checker.tags}
    assert not names & {"script", "iframe", "img", "object", "embed", "form"}
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", page)
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page
    assert ("html", {"lang": "en"}) in checker.tags


def test_every_chart_has_its_table_and_a_name(page):
    checker = checked(page)
    svgs = [a for tag, a in checker.tags if tag == "svg"]
    assert len(svgs) >= 8
    assert all(a["role"] == "img" and a["aria-labelledby"] for a in svgs)
    for figure in re.findall(r"<figure>.*?</figure>(.{0,200})", page, flags=re.S):
        assert '<div class="scroll"' in figure
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ET.fromstring(svg)  # well-formed, so every browser shows it
        assert "#0000a" not in svg  # every color follows light and dark
    tables = re.findall(r"<table.*?</table>", page, flags=re.S)
    assert all("<caption>" in t and 'scope="col"' in t and 'scope="row"' in t for t in tables)


def test_no_two_tiles_have_one_title_and_a_failed_one_says_so(folder, quick):
    gates = Gates(max_bytes=1, max_latency_ms=1e9)
    report = quick(folder / "model.onnx", data=dataset(n=60), gates=gates)
    with_kernels = dataclasses.replace(
        report,
        accuracy=dataclasses.replace(report.accuracy, kernels=report.accuracy.model),
        latency=dataclasses.replace(
            report.latency,
            timings=report.latency.timings | {"kernels": report.latency.timings["model"]},
        ),
    )
    titles = [g.what for g in sections.glance(with_kernels)]
    assert len(set(titles)) == len(titles)
    assert {"top-1 on the sparse kernels", "median latency on the sparse kernels"} == {
        title.partition(",")[0] for title in titles if "on the sparse kernels" in title
    }
    failed = {g.what: g.failed for g in sections.glance(report) if g.failed}
    assert failed == {"file": ("max_bytes",)}
    laid_out = sections.page(report)
    text = html(laid_out)
    checked(text)
    (reason,) = laid_out.failures
    assert reason.startswith("max_bytes: ")
    assert reason.endswith("bytes, limit 1 (size of the file)")
    assert text.index(reason) < text.index("At a glance")
    (tile,) = re.findall(r'<li class="failed">.*?</li>', text, flags=re.S)
    assert "FAIL: max_bytes" in tile
    assert "; FAIL: max_bytes" in markdown(laid_out)
    assert f"- FAIL {reason}" in markdown(laid_out)


def test_a_busy_machine_is_told_in_the_tile_of_the_latency(folder, quick):
    report = quick(folder / "model.onnx")
    held_up = {n: dataclasses.replace(t, held_up=1.0) for n, t in report.latency.timings.items()}
    busy = dataclasses.replace(report, latency=dataclasses.replace(report.latency, timings=held_up))
    (tile,) = [g for g in sections.glance(busy) if g.what.startswith("median latency")]
    assert tile.difference.endswith("too busy to measure it")
    assert "The machine was too busy to measure speed: in 100%" in html(sections.page(busy))


def test_a_row_with_sentences_can_be_stacked_and_intervals_stay_whole():
    long = "a sentence that is longer than any figure could be in a table"
    rows = [("a", "12.50% (10.00 to 15.00)", long), ("b", "1", "<b>")]
    table = Table("One.", ["what", "share", "why"], rows)
    figures = Table("Two.", ["what", "share", "n"], [(*row[:2], "1") for row in rows])
    text = html(Page("t", "", None, [], [], [Section("s", [table, figures])]))
    checked(text)
    assert text.count('class="stacks"') == 1
    assert f'<td data-head="why" class="text">{long}</td>' in text
    assert '12.50% <span class="whole">(10.00 to 15.00)</span>' in text
    assert "<b>" not in text


def test_the_verdict_comes_first_and_every_section_follows(page):
    assert page.index("PASSED") < page.index("At a glance") < page.index(">Verdict</h2>")
    titles = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    assert titles == [
        "Verdict", "Accuracy", "Speed", "Size", "Robustness", "Parity", "Structure", "Provenance",
    ]  # fmt: skip
    for said in ("Wilson", "McNemar", "Holm", "bootstrap", "calibration", "stand in for"):
        assert said in page


def test_each_network_looks_the_same_in_every_chart_and_no_two_alike():
    looks = charts._looks(["dense model", "dense model 2", "a", "this file, kernels"])
    assert looks["dense model"] == charts._looks(["this file", "dense model"])["dense model"]
    assert len(set(looks.values())) == 4


@pytest.mark.parametrize(("high", "cut"), [(2.0, False), (50.0, True)])
def test_an_interval_far_beyond_the_bars_is_cut_and_it_says_so(high, cut):
    bars = Bars("t", ["a", "b"], {"x": [1, 2]}, "ms", {"x": [(0.5, 1.5), (1, high)]})
    assert ("end beyond the edge" in charts.svg(bars, "n")) is cut


def test_columns_of_words_begin_at_the_left():
    table = Table("c", ["what", "ms", "ratio"], [("a", "1.0", "–"), ("b", "2.0", "no difference")])
    assert table.in_words == [True, False, True]
    assert Table("c", ["what", "ms"], []).in_words == [False, False]


def test_hostile_text_stays_text():
    page = html(small_page(HOSTILE))
    checker = checked(page)
    assert "script" not in {tag for tag, _ in checker.tags}
    assert not any("onload" in a for _, a in checker.tags)
    assert "\u202e" not in page
    assert "\x00" not in page
    assert page.count(escapes.escape("<script>alert(1)</script>")) >= 8
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ET.fromstring(svg)


def test_a_hostile_model_file_stays_text(folder, quick):
    meta = dataclasses.replace(
        metadata(network(0.95)), model=HOSTILE, classes=(HOSTILE, "$\\sum", "c", "d", "e", "f")
    )
    path = packed_onnx.export(network(0.95), meta, folder / "own" / "model.onnx")
    data = dataclasses.replace(dataset(), classes=meta.classes)
    found = quick(path, reference=folder / "reference.onnx", data=data)
    write_report(found, folder / "out")
    page = (folder / "out" / "report.html").read_text()
    assert "script" not in {tag for tag, _ in checked(page).tags}
    assert "&lt;script&gt;" in page


def test_without_matplotlib_there_are_tables(monkeypatch):
    with_charts = html(small_page())
    monkeypatch.setattr(charts, "available", lambda: False)
    without = html(small_page())
    assert with_charts.count("<svg") == 2
    assert without.count("<svg") == 0
    assert with_charts.count("<table") == without.count("<table") == 2


def test_the_same_page_gives_the_same_bytes():
    assert html(small_page()) == html(small_page())


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast of two #rrggbb colors."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_colors_have_contrast_in_light_and_dark():
    style = (ROOT / "fggp_deploy/report/templates/page.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in
                   style.split("@media screen and (prefers-color-scheme: dark)")[:2])  # fmt: skip
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for c in (light, dark):
        for text in ("ink", "soft", "link"):
            assert contrast(c[text], c["paper"]) >= 4.5
        assert contrast(c["soft"], c["panel"]) >= 4.5
        assert contrast(c["good"], c["good-paper"]) >= 4.5
        assert contrast(c["bad"], c["bad-paper"]) >= 4.5
        for i in range(1, 7):
            assert contrast(c[f"series-{i}"], c["paper"]) >= 3


def test_report_json_holds_to_its_schema(folder, quick):
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    full = quick(folder / "model.onnx", data=dataset(n=60), robustness="quick").to_dict()
    validator.validate(full)
    validator.validate(quick(folder / "model.csr").to_dict())
    del full["verdicts"]
    assert not validator.is_valid(full)


def test_the_schema_file_is_that_of_the_code():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from make_report_schema import make
    finally:
        sys.path.pop(0)
    written = (ROOT / "fggp_deploy/verification" / SCHEMA_FILE).read_text()
    assert json.loads(written) == make(), "run python scripts/make_report_schema.py"


def opened(page: str, place: Path, *, width: int, scheme: str) -> tuple[list[str], Path]:
    """What the console of a headless Chromium says to a page, and its screenshot."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((b for b in names if shutil.which(b)), None)
    if browser is None:
        pytest.skip("no Chromium")
    (place / "page.html").write_text(page)
    # a window cannot be as narrow as a telephone, a frame can
    style = f"border:0;width:{width}px;height:2000px"
    frame = f"<body style='margin:0'><iframe src='page.html' style='{style}'></iframe></body>"
    (place / "frame.html").write_text(f"<!doctype html>{frame}")
    shot = place / "shot.png"
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--allow-file-access-from-files", "--enable-logging=stderr",
         f"--user-data-dir={place / 'profile'}",
         f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
         f"--window-size={width},2000", f"--screenshot={shot}", f"file://{place}/frame.html"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], shot


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_opens_it_without_complaint(page, tmp_path, width, scheme):
    said, shot = opened(page, tmp_path, width=width, scheme=scheme)
    assert said == []
    with Image.open(shot) as image:
        pixels = image.convert("L").crop((0, 0, width, 2000))
    assert (pixels.getpixel((2, 2)) > 200) == (scheme == "light")
    assert len(pixels.getcolors(256) or []) > 50  # text, cards and charts, not an empty page


@pytest.mark.slow
def test_the_browser_does_complain_of_a_page_that_is_wrong(page, tmp_path):
    wrong = page.replace("<main", "<script>alert(1)</script><main")
    said, _ = opened(wrong, tmp_path, width=1200, scheme="light")
    assert "Content Security Policy" in said[0]
