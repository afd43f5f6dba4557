"""A report must not lie beside a file that it does not speak of."""

from __future__ import annotations

from pathlib import Path

from fggp_deploy.common.files import sha256_file
from fggp_deploy.verification.report_files import described_file, set_aside, stem_for


def set_aside_report(model: Path) -> Path | None:
    """Rename the reports (.json, .md, .html) beside a model that are of another file of its name.

    They become `report-<first 8 digits of that file's sha256>`, so that nothing is lost. Returns
    the new name of report.md, or None if there was nothing to do. Raises MachineError.
    """
    stem = stem_for(model.parent, model.name)
    described = described_file(model.with_name(f"{stem}.json"))
    if described is None or described[0] != model.name:
        return None  # no report, or none of ours
    return set_aside(model.parent, stem, sha256_file(model))
