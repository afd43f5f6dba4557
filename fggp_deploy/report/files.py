"""Writing a report as report.json, report.md and report.html."""

from __future__ import annotations

import json
from pathlib import Path

from fggp_deploy.common.files import written_together
from fggp_deploy.report import sections
from fggp_deploy.report.html import html
from fggp_deploy.report.markdown import markdown
from fggp_deploy.verification.report import Report
from fggp_deploy.verification.report_files import set_aside, stem_for


def write_report(report: Report, folder: Path) -> Path:
    """Write the three files into `folder` as a set; the path of the .html.

    The reports of a model that is not model.onnx are called NAME.report; see
    `verification.report_files`. A report without accuracy does not replace one of the same file
    with accuracy: it is called report-no-data. Raises MachineError.
    """
    stem = stem_for(folder, report.model.name)
    if report.accuracy is None and _has_accuracy(folder / f"{stem}.json", report.model.sha256):
        stem += "-no-data"
    page = sections.page(report)
    texts = {
        ".json": json.dumps(report.to_dict(), indent=2) + "\n",
        ".md": markdown(page),
        ".html": html(page),
    }
    contents = {
        folder / f"{stem}{suffix}": text.encode(errors="replace") for suffix, text in texts.items()
    }
    with written_together(contents):
        set_aside(folder, stem, report.model.sha256)
    return folder / f"{stem}.html"


def _has_accuracy(path: Path, sha256: str) -> bool:
    """Whether an earlier report of the same file has its accuracy."""
    try:
        earlier = json.loads(path.read_bytes())
        return bool(earlier["model"]["sha256"] == sha256 and earlier["accuracy"] is not None)
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return False  # no report, or not one of ours
