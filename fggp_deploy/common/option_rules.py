"""Options of a run: each has a rule with its type, domain, help and command-line form.

A frozen dataclass whose fields are made with `setting` is the only place where its options are
described. The checks, the YAML reader, the JSON Schema and the command line derive from it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fggp_deploy.errors import ConfigError, UnknownName

_NAMES = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text",
    dict: "a mapping of names to values",
}  # fmt: skip
_SCHEMA_TYPES = {
    int: "integer", float: "number", bool: "boolean", str: "string", Path: "string",
    dict: "object",
}  # fmt: skip
_SCALARS = (bool, int, float, str)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The type, the domain and the help of one option.

    `many`: a list of such values; `single`: a list or one value. `optional`: may be null.
    `above` and `below` are exclusive bounds, `least` and `most` inclusive ones. `hint` ends the
    message about a value outside the domain. `commands`: which of the commands that start a run
    offer the option; a configuration file may hold any. `metavar`: what --help shows as its value.
    """

    kind: type
    help: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    many: bool = False
    single: bool = False
    optional: bool = False
    hint: str = ""
    commands: tuple[str, ...] = ("prune", "train")
    metavar: str = ""

    def read(self, name: str, value: Any) -> Any:
        """Convert a value from YAML or --set to the option's own type; raises ConfigError."""
        if value is None and self.optional:
            return None
        if self.many and isinstance(value, (list, tuple)):
            return tuple(self._one(name, v) for v in value)
        if self.many and not self.single:
            raise ConfigError(
                f"{option(name)} must be a list, each entry {self._name}, got {value!r}"
            )
        return self._one(name, value)

    def check(self, name: str, value: Any) -> None:
        """Raise ConfigError with the rule and the value if the value is outside the domain."""
        for v in value if isinstance(value, tuple) else (value,):
            if v is None:
                continue
            if self.choices and v not in self.choices:
                raise UnknownName(name.replace("_", "-"), v, self.choices)
            if self.kind in (int, float) and not self._holds(v):
                hint = self._as_share(v) or self.hint
                tail = f"; {hint}" if hint else ""
                raise ConfigError(f"{option(name)} must be {self._domain()}, got {v}{tail}")

    def schema(self) -> dict[str, Any]:
        """This option as JSON Schema."""
        one: dict[str, Any] = {"type": _SCHEMA_TYPES[self.kind]}
        for key, bound in (
            ("minimum", self.least), ("exclusiveMinimum", self.above),
            ("maximum", self.most), ("exclusiveMaximum", self.below),
        ):  # fmt: skip
            if bound is not None:
                one[key] = bound
        if self.kind is dict:
            one["additionalProperties"] = {"type": ["boolean", "number", "string"]}
        if self.choices:
            one["enum"] = list(self.choices)
        kinds = [one] if not self.many or self.single else []
        kinds += [{"type": "array", "items": one}] if self.many else []
        kinds += [{"type": "null"}] if self.optional else []
        return {"description": self.help, **(kinds[0] if len(kinds) == 1 else {"anyOf": kinds})}

    @property
    def is_number_list(self) -> bool:
        """True if the command line gives the option as numbers separated by commas."""
        return self.many and self.kind is float

    @property
    def _name(self) -> str:
        return _NAMES.get(self.kind, "a path")

    def _one(self, name: str, value: Any) -> Any:
        if self.kind is float:
            value = _number(value)
        if self.kind is Path and isinstance(value, (str, Path)):
            return Path(value)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if self.kind is float and is_number:
            return float(value)
        if type(value) is not self.kind:
            raise ConfigError(f"{option(name)} must be {self._name}, got {value!r}")
        if not isinstance(value, dict):
            return value
        if not all(isinstance(k, str) and isinstance(v, _SCALARS) for k, v in value.items()):
            raise ConfigError(f"{option(name)} must map names to single values, got {value!r}")
        return {k: _number(v) for k, v in value.items()}

    def _holds(self, v: float) -> bool:
        return (
            math.isfinite(v)
            and (self.least is None or v >= self.least)
            and (self.above is None or v > self.above)
            and (self.most is None or v <= self.most)
            and (self.below is None or v < self.below)
        )

    def _as_share(self, v: float) -> str:
        """The hint for a percentage that was given instead of a share."""
        return f"write {v:g}% as {v / 100:g}" if self.below == 1 and 1 < v < 100 else ""

    def _domain(self) -> str:
        low, high = self.least, self.most
        if self.below is None and self.most is None:
            return f"above {self.above:g}" if low is None else f"at least {low:g}"
        left = f"({self.above:g}" if low is None else f"[{low:g}"
        return f"in {left}, " + (f"{self.below:g})" if high is None else f"{high:g}]")


def _number(value: Any) -> Any:
    """The number that a text spells, because YAML 1.1 reads 1e-4 as text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def setting(default: Any, help: str, *, kind: type | None = None, **rule: Any) -> Any:
    """A dataclass field with a Rule; `rule` holds its other fields.

    `kind` is the default's type unless given. A default of None makes the option optional.
    """
    made = Rule(kind=kind or type(default), optional=default is None, help=help, **rule)
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={"rule": made})
    return field(default=default, metadata={"rule": made})


def with_default(kind: type, name: str, default: Any) -> Any:
    """The field `name` of the dataclass `kind`, for a subclass that only changes its default."""
    return field(default=default, metadata={"rule": rules_of(kind)[name]})


def rules_of(kind: type) -> dict[str, Rule]:
    """The rule of each field of a dataclass, its own fields first, then those of its bases."""
    rules = {f.name: f.metadata["rule"] for f in fields(kind)}
    own = (name for c in kind.__mro__ for name in vars(c).get("__annotations__", {}))
    return {name: rules[name] for name in dict.fromkeys(own) if name in rules}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of frozen dataclasses of options. Raises ConfigError if a value breaks its rule."""

    def __post_init__(self) -> None:
        for name, rule in rules_of(type(self)).items():
            rule.check(name, getattr(self, name))

    def to_dict(self) -> dict[str, Any]:
        """Every option as a plain YAML and JSON type."""
        return {name: plain(getattr(self, name)) for name in rules_of(type(self))}

    @classmethod
    def read(cls, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """Convert values from YAML, by key, to the options' own types.

        Raises ConfigError, which names the key, the rule, and for an unknown key the nearest one.
        """
        rules, read = rules_of(cls), {}
        for key, value in values.items():
            name = str(key).replace("-", "_")
            if name not in rules:
                raise UnknownName(f"key in {where}", str(key), rules)
            try:
                read[name] = rules[name].read(name, value)
                rules[name].check(name, read[name])
            except ConfigError as e:
                raise ConfigError(f"{where}: {e}") from e
        return read

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """The JSON Schema of a configuration file."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": cls.__name__,
            "type": "object",
            "additionalProperties": False,
            "properties": {name: rule.schema() for name, rule in rules_of(cls).items()},
        }


def plain(value: Any) -> Any:
    """An option's value as a plain YAML and JSON type."""
    if isinstance(value, Path):
        return str(value).encode(errors="backslashreplace").decode()  # may not be valid UTF-8
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def check_counts(**counts: int | Sequence[int]) -> None:
    """Raise ConfigError for the first option that is below 1 or an empty list.

    >>> check_counts(threads=[2, 1], batch=1)
    """
    for name, given in counts.items():
        values = [given] if isinstance(given, int) else given
        if not values or (least := min(values)) < 1:
            got = least if values else "none"
            raise ConfigError(f"{option(name)} must be at least 1, got {got}")


def option(name: str) -> str:
    """The spelling of a key on the command line."""
    return f"--{name.replace('_', '-')}"
