"""What one option may be: its type and domain, checked wherever the value comes from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
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
    """The type and the domain of one option.

    `many`: a list of such values; `single`: a list or one value. `optional`: may be null.
    `above` and `below` are open ends, `least` and `most` closed ones.
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

    def read(self, name: str, value: Any) -> Any:
        """The value in the option's own type, as YAML or --set give it; raises ConfigError."""
        if value is None and self.optional:
            return None
        if self.many and isinstance(value, (list, tuple)):
            return tuple(self._one(name, v) for v in value)
        if self.many and not self.single:
            raise ConfigError(f"{option(name)} must be a list of {self._name}, got {value!r}")
        return self._one(name, value)

    def check(self, name: str, value: Any) -> None:
        """Raise ConfigError with the rule and the value where the value is outside the domain."""
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
        """What a percentage would be as the share that the option wants."""
        return f"write {v:g}% as {v / 100:g}" if self.below == 1 and 1 < v < 100 else ""

    def _domain(self) -> str:
        low, high = self.least, self.most
        if self.below is None and self.most is None:
            return f"above {self.above:g}" if low is None else f"at least {low:g}"
        left = f"({self.above:g}" if low is None else f"[{low:g}"
        return f"in {left}, " + (f"{self.below:g})" if high is None else f"{high:g}]")


def _number(value: Any) -> Any:
    """A text that is a number as that: YAML 1.1 takes 1e-4 for a text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def check_counts(**counts: int | Sequence[int]) -> None:
    """Raise ConfigError for the first option that is below 1, or a list that is empty.

    >>> check_counts(threads=[2, 1], batch=1)
    """
    for name, given in counts.items():
        values = [given] if isinstance(given, int) else given
        if not values or (least := min(values)) < 1:
            got = least if values else "none"
            raise ConfigError(f"{option(name)} must be at least 1, got {got}")


def option(name: str) -> str:
    """The command line's spelling of a key."""
    return f"--{name.replace('_', '-')}"
