"""A report must not lie beside a file that it does not speak of."""

from __future__ import annotations

import json
from pathlib import Path

from fggp_deploy.files import sha256_file, write_error


def set_aside_report(model: Path) -> Path | None:
    """Rename the reports (.json, .md, .html) beside a model that are of another file of its name.

    They become `report-<first 8 digits of that file's sha256>`, so that nothing is lost. Returns
    the new name of report.md, or None where there was nothing to do. Raises MachineError.
    """
    try:
        subject = json.loads((model.parent / "report.json").read_bytes())["model"]
        name, sha256 = str(subject["name"]), str(subject["sha256"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None  # no report, or none of ours
    if name != model.name or not sha256.isalnum() or sha256 == sha256_file(model):
        return None
    for suffix in ("json", "md", "html"):
        old = model.with_name(f"report.{suffix}")
        new = model.with_name(f"report-{sha256[:8]}.{suffix}")
        try:
            if old.is_file():
                old.replace(new)
        except OSError as e:
            raise write_error(new, e) from e
    return model.with_name(f"report-{sha256[:8]}.md")
