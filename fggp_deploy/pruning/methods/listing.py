"""Descriptions of all methods, for people and for programs."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

from fggp_deploy.errors import ConfigError, FggpWarning
from fggp_deploy.pruning.methods.registry import info, names


@dataclass(frozen=True)
class Setting:
    """One option of a method. `schema`: its rule as JSON Schema."""

    name: str
    default: Any
    help: str
    schema: dict[str, Any]


@dataclass(frozen=True)
class Description:
    """A method in plain types, see method.MethodInfo."""

    name: str
    title: str
    source: str
    options: tuple[Setting, ...]
    reads: tuple[str, ...]
    keeps: str
    starts: tuple[str, ...]
    because: str
    without_training: bool
    several_targets: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def described(name: str) -> Description:
    """One method; raises UnknownName, and ConfigError if another package's method is broken."""
    found = info(name)
    defaults = found.options.defaults()
    return Description(
        name=name,
        title=found.title,
        source=found.source,
        options=tuple(
            Setting(key, defaults[key], rule.help, rule.schema())
            for key, rule in found.options.rules().items()
        ),
        reads=found.reads,
        keeps=found.keeps,
        starts=found.starts,
        because=found.because,
        without_training=found.without_training,
        several_targets=found.several_targets,
    )


def listing() -> list[Description]:
    """All methods, built-in ones first; broken ones of other packages give a warning."""
    rows = []
    for name in names():
        try:
            rows.append(described(name))
        except ConfigError as e:
            warnings.warn(str(e), FggpWarning, stacklevel=2)
    return rows
