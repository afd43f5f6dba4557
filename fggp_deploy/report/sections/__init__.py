"""The sections of a verification report, one file each, and the page that they form.

To add a section: one file with a function from Report to Section, and an entry in `SECTIONS`.
"""

from __future__ import annotations

from fggp_deploy.report import words
from fggp_deploy.report.page import Page
from fggp_deploy.report.sections.accuracy import accuracy
from fggp_deploy.report.sections.parity import parity
from fggp_deploy.report.sections.provenance import provenance
from fggp_deploy.report.sections.robustness import robustness
from fggp_deploy.report.sections.size import size
from fggp_deploy.report.sections.speed import speed
from fggp_deploy.report.sections.structure import structure
from fggp_deploy.report.sections.verdict import glance, lead, title, verdict
from fggp_deploy.verification.report import Report

__all__ = ["glance", "page"]

SECTIONS = (verdict, accuracy, speed, size, robustness, parity, structure, provenance)


def page(report: Report) -> Page:
    """Lay out a report; the verdict is first."""
    return Page(
        title=title(report),
        lead=lead(report),
        passed=report.passed,
        glance=glance(report),
        notes=report.notes,
        sections=[section(report) for section in SECTIONS],
        failures=[words.verdict(v) for v in report.verdicts if not v.passed],
    )
