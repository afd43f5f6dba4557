"""A method's own options: a frozen dataclass whose fields carry their rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fggp_deploy.common.option_rules import Rule, rules_of, setting
from fggp_deploy.errors import ConfigError, UnknownName

__all__ = ["Options", "setting"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base class of every method's options, without any option. Invalid values raise ConfigError.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Mine(Options):
    ...     share: float = setting(0.5, "Fraction to remove.", above=0, most=1)
    >>> Mine.read("mine", {"share": "1e-2"})
    Mine(share=0.01)
    """

    def __post_init__(self) -> None:
        for name, rule in self.rules().items():
            rule.check(_spelled(name), getattr(self, name))

    @classmethod
    def rules(cls) -> dict[str, Rule]:
        """The rule of each option, by name."""
        return rules_of(cls)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of each option."""
        return vars(cls()).copy()

    @classmethod
    def read(cls, method: str, values: Mapping[str, Any]) -> Self:
        """Options from plain YAML values; raises ConfigError that names the option."""
        rules, read = cls.rules(), {}
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in rules:
                raise cls.unknown(method, key, value)
            read[name] = rules[name].read(_spelled(name), value)
        return cls(**read)

    @classmethod
    def unknown(cls, method: str, key: str, value: Any, *, hint: str = "") -> ConfigError:
        """The error for an option that the method does not have."""
        if rules := cls.rules():
            return UnknownName(f"option of --method {method}", key, rules, tail=hint)
        return ConfigError(f"--method {method} has no options of its own, got {key}={value}{hint}")


def _spelled(name: str) -> str:
    return f"method-set {name}"
