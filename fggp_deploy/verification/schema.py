"""The version and the JSON Schema of report.json, and reading one back."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from fggp_deploy.errors import FileError

SCHEMA_VERSION = 2
SCHEMA_FILE = "report.schema.json"
REPORT = "report.json"
MAX_BYTES = 64 << 20


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of every report.json of this version."""
    text = resources.files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    return dict(json.loads(text))


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json of this version and check the parts that this package uses; FileError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FileError(
                f"{path} is larger than any report; give a report.json that verify wrote"
            )
        report = json.loads(path.read_bytes())
        version = report["schema_version"]
    except OSError as e:
        raise FileError(f"the report {path} cannot be read ({e.strerror or e})") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise FileError(f"{path} is not a report; give a report.json that verify wrote") from e
    if version != SCHEMA_VERSION:
        raise FileError(
            f"{path} has schema version {version!r}, this program reads {SCHEMA_VERSION}; "
            "verify the file again"
        )
    try:
        fits = (
            isinstance(report["model"]["sha256"], str)
            and isinstance(report["certificate"]["masks_sha256"], str)
            and isinstance(report["certificate"]["layers"], dict)
            and isinstance(report["origin"]["preprocessing"], dict)
            and all(isinstance(v["name"], str) and "passed" in v for v in report["verdicts"])
        )
    except (KeyError, TypeError) as e:
        raise FileError(f"{path} lacks {e} of a report; verify the file again") from e
    if not fits:
        raise FileError(f"{path} is damaged; verify the file again")
    return dict(report)
