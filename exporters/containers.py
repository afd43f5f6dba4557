"""Tensors in tuples, lists, dictionaries and dataclasses: read or replace them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Everything in tuples, lists, dictionaries and dataclasses, with a name for each."""
    if isinstance(value, Mapping):
        children = list(value.items())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        children = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    elif isinstance(value, tuple | list):
        children = list(enumerate(value))
    else:
        yield name, value
        return
    for key, child in children:
        yield from leaves(child, f"{name}_{key}" if name else str(key))


def filled_with(value: Any, tensors: Iterator[Tensor]) -> Any:
    """`value` with other tensors in place of its own, in the order of `leaves`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, dict):
        filled = copy.copy(value)
        for key, child in value.items():
            filled[key] = filled_with(child, tensors)
        return filled
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value)]
        filled = {f: filled_with(getattr(value, f), tensors) for f in fields}
        return dataclasses.replace(value, **filled)
    if isinstance(value, tuple | list):
        items = [filled_with(child, tensors) for child in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
