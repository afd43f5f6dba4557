"""Write fggp_deploy/verification/report.schema.json from the report's dataclasses.

    python scripts/make_report_schema.py

If a change does more than add to the schema, increase SCHEMA_VERSION.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

import fggp_deploy.verification as package
from fggp_deploy.verification.report import Report
from fggp_deploy.verification.schema import SCHEMA_FILE, SCHEMA_VERSION

_PLAIN = {float: "number", int: "integer", str: "string", bool: "boolean", type(None): "null"}


def make() -> dict[str, Any]:
    """The schema of `Report.to_dict()`."""
    definitions: dict[str, Any] = {}
    _of(Report, definitions)
    report = definitions.pop("Report")
    head = {"schema_version": {"const": SCHEMA_VERSION}, "passed": {"type": "boolean"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What fggp-deploy verify measured on one file",
        **report,
        "properties": head | report["properties"],
        "required": [*head, *report["required"]],
        "$defs": definitions,
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind is Any:
        return {}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if dataclasses.is_dataclass(kind):
        name = kind.__name__
        if name not in definitions:
            definitions[name] = {}  # for one that holds itself
            hints = typing.get_type_hints(kind)
            names = [f.name for f in dataclasses.fields(kind)]
            definitions[name] = {
                "type": "object",
                "description": (kind.__doc__ or "").split("\n\n")[0].replace("\n    ", " "),
                "properties": {n: _of(hints[n], definitions) for n in names},
                "required": names,
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_of(a, definitions) for a in arguments]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": _of(arguments[0], definitions)}
        items = [_of(a, definitions) for a in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "items": False}
    if origin is list:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    raise TypeError(f"no JSON Schema for {kind}")


if __name__ == "__main__":
    target = Path(package.__file__).with_name(SCHEMA_FILE)
    target.write_text(json.dumps(make(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
