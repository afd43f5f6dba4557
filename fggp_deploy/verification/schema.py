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
    """The JSON Schema (2020-12) that every report.json of this version holds to."""
    text = resources.files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    return dict(json.loads(text))


def read_report(path: Path) -> dict[str, Any]:
    """A report.json of this version, its parts checked for what is used of them here."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FileError(f"{path} is larger than any report; give the report.json of a verify")
        told = json.loads(path.read_bytes())
        version = told["schema_version"]
    except OSError as e:
        raise FileError(f"the report {path} cannot be read ({e.strerror or e})") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise FileError(f"{path} is no report of verify; give its report.json") from e
    if version != SCHEMA_VERSION:
        raise FileError(
            f"{path} has schema version {version!r}, this program reads {SCHEMA_VERSION}; "
            "verify the file again"
        )
    try:
        fits = (
            isinstance(told["model"]["sha256"], str)
            and isinstance(told["certificate"]["masks_sha256"], str)
            and isinstance(told["certificate"]["layers"], dict)
            and isinstance(told["origin"]["preprocessing"], dict)
            and all(isinstance(v["name"], str) and "passed" in v for v in told["verdicts"])
        )
    except (KeyError, TypeError) as e:
        raise FileError(f"{path} lacks {e} of a report; verify the file again") from e
    if not fits:
        raise FileError(f"{path} is damaged; verify the file again")
    return dict(told)
