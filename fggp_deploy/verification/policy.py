"""A policy: the gates of `verify` in a YAML file under version control."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from fggp_deploy.common.yaml_files import read_yaml
from fggp_deploy.errors import ConfigError, UnknownName
from fggp_deploy.verification.gates import GATES, Gates

# The names in the file are those of the options.
_FIELDS = {gate.option: gate.name for gate in GATES} | {"strict": "strict"}


def read_policy(path: Path) -> Gates:
    """Read gates from YAML; raises ConfigError for an invalid policy, UnknownName for a wrong key.

    The file has `version: 1`, and `strict` and any of the gates by the names of their options.
    """
    content = read_yaml(path, what=f"the policy {path}")
    if not isinstance(content, dict) or content.pop("version", None) != 1:
        raise ConfigError(f"the policy {path} must be a mapping with version: 1")
    given: dict[str, Any] = {}
    for key, value in content.items():
        if key not in _FIELDS:
            raise UnknownName("gate", str(key), _FIELDS)
        given[_FIELDS[key]] = _checked(path, str(key), value)
    if not given.keys() - {"strict"}:
        raise ConfigError(f"the policy {path} sets no gate; known: {', '.join(sorted(_FIELDS))}")
    return Gates(**given)


def overridden(policy: Gates, given: Gates) -> Gates:
    """The policy, with its limits replaced by those `given` on the command line."""
    names = [f.name for f in fields(Gates) if f.name != "strict"]
    values = {n: getattr(policy if getattr(given, n) is None else given, n) for n in names}
    return Gates(**values, strict=policy.strict or given.strict)


def _checked(path: Path, key: str, value: Any) -> Any:
    wanted: tuple[type, ...] = (bool,) if key == "strict" else (int, float)
    if key == "max_bytes":
        wanted = (int,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and key != "strict"):
        raise ConfigError(f"the policy {path}: {key} must be a number, got {value!r:.40}")
    return value
