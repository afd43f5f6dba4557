"""The version and the JSON Schema of report.json."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

SCHEMA_VERSION = 2
SCHEMA_FILE = "report.schema.json"


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every report.json of this version holds to."""
    text = resources.files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    return dict(json.loads(text))
