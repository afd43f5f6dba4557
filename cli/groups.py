"""Groups of options: dataclasses whose fields become options of a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

R = TypeVar("R")


def with_groups(command: Callable[..., R]) -> Callable[..., R]:
    """Replace each parameter of a command that is a dataclass by one option per field.

    The options take the place of the parameter, in the order of the fields. A field is declared
    like a parameter of a command: with its type, `typer.Option` and its default.
    """
    own = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {p.name: p.annotation for p in own if is_dataclass(p.annotation)}

    @functools.wraps(command)
    def with_values(**values: Any) -> R:
        for name, kind in groups.items():
            values[name] = kind(**{f.name: values.pop(f.name) for f in fields(kind)})
        return command(**values)

    parameters: list[inspect.Parameter] = []
    for p in own:
        if p.name in groups:
            parameters += _parameters(groups[p.name])
        else:
            parameters.append(p.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    with_values.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_values.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_values


def _parameters(group: Any) -> list[inspect.Parameter]:
    """The parameters from which Typer makes the options of a group."""
    types = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=_default(f), annotation=types[f.name]
        )
        for f in fields(group)
    ]


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()
