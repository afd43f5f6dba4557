"""Where reports stand in a folder, so that none takes another's place.

`report.json`, `.md` and `.html` are those of the folder's model.onnx, or where it has none, of the
first file that is verified into it; every other file has `NAME.report.json` and so on. What is
there of an earlier file of the same name is set aside as `report-<first 8 digits of its sha256>`.
"""

from __future__ import annotations

import json
from pathlib import Path

from fggp_deploy.checkpoints.run_folder import PACKED
from fggp_deploy.common.files import write_error
from fggp_deploy.verification.schema import REPORT

SUFFIXES = (".json", ".md", ".html")


def stem_for(folder: Path, name: str) -> str:
    """The name, without a suffix, of the reports in `folder` on the file `name`."""
    path = folder / REPORT
    told = subject(path)
    if told is not None:
        free = told[0] == name
    else:
        free = not path.exists() and (name == PACKED or not (folder / PACKED).exists())
    return path.stem if free else f"{name}.{path.stem}"


def find_report(folder: Path, name: str) -> Path:
    """The report in `folder` on the file `name`; report.json where there is none by its name."""
    path = folder / f"{stem_for(folder, name)}.json"
    return path if path.is_file() else folder / REPORT


def set_aside(folder: Path, stem: str, sha256: str) -> Path | None:
    """Rename the reports called `stem` where they are of a file with another hash.

    Returns the new name of the .md, or None where there was nothing to do. Raises MachineError.
    """
    told = subject(folder / f"{stem}.json")
    if told is None or told[1] == sha256 or not told[1].isalnum():
        return None
    aside = f"{stem}-{told[1][:8]}"
    for suffix in SUFFIXES:
        old, new = folder / f"{stem}{suffix}", folder / f"{aside}{suffix}"
        try:
            if old.is_file():
                old.replace(new)
        except OSError as e:
            raise write_error(new, e) from e
    return folder / f"{aside}.md"


def subject(path: Path) -> tuple[str, str] | None:
    """Name and hash of the file that a report tells of; None for what is no report of ours."""
    try:
        told = json.loads(path.read_bytes())["model"]
        return str(told["name"]), str(told["sha256"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
