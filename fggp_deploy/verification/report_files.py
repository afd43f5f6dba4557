"""The names of reports in a folder, so that no report overwrites that of another file.

`report.json`, `.md` and `.html` belong to the folder's model.onnx or, without one, to the first
file that is verified into the folder. Every other file has `NAME.report.json` and so on. The report
of an earlier file of the same name is renamed to `report-<first 8 digits of that file's sha256>`.
"""

from __future__ import annotations

import json
from pathlib import Path

from fggp_deploy.checkpoints.run_folder import PACKED
from fggp_deploy.common.files import sha256_file, write_error
from fggp_deploy.verification.schema import REPORT

SUFFIXES = (".json", ".md", ".html")


def stem_for(folder: Path, name: str) -> str:
    """The name, without a suffix, of the reports in `folder` on the file `name`."""
    path = folder / REPORT
    described = described_file(path)
    if described is not None:
        free = described[0] == name
    else:
        free = not path.exists() and (name == PACKED or not (folder / PACKED).exists())
    return path.stem if free else f"{name}.{path.stem}"


def find_report(folder: Path, name: str) -> Path:
    """The report in `folder` on the file `name`; report.json if there is none by its name."""
    path = folder / f"{stem_for(folder, name)}.json"
    return path if path.is_file() else folder / REPORT


def set_aside_report(model: Path) -> Path | None:
    """Rename the reports on an earlier file of this name, before they seem to describe `model`.

    Returns the new name of the .md, or None if there was nothing to do. Raises MachineError.
    """
    stem = stem_for(model.parent, model.name)
    described = described_file(model.with_name(f"{stem}.json"))
    if described is None or described[0] != model.name:
        return None  # no report, or none of ours
    return set_aside(model.parent, stem, sha256_file(model))


def set_aside(folder: Path, stem: str, sha256: str) -> Path | None:
    """Rename the reports called `stem` if they describe a file with another hash.

    Returns the new name of the .md, or None if there was nothing to do. Raises MachineError.
    """
    described = described_file(folder / f"{stem}.json")
    if described is None or described[1] == sha256 or not described[1].isalnum():
        return None
    aside = f"{stem}-{described[1][:8]}"
    for suffix in SUFFIXES:
        old, new = folder / f"{stem}{suffix}", folder / f"{aside}{suffix}"
        try:
            if old.is_file():
                old.replace(new)
        except OSError as e:
            raise write_error(new, e) from e
    return folder / f"{aside}.md"


def described_file(path: Path) -> tuple[str, str] | None:
    """Name and hash of the file that a report describes; None if it is not one of our reports."""
    try:
        model = json.loads(path.read_bytes())["model"]
        return str(model["name"]), str(model["sha256"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
