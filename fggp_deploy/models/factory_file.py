"""A user's own network: `FILE.py:FACTORY`, run only when the user says that the code is trusted."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from fggp_deploy.errors import ConfigError
from fggp_deploy.user_code import load_function


def is_spec(name: str) -> bool:
    """True for `FILE.py:FACTORY`."""
    return ".py:" in name


def absolute(spec: str) -> str:
    """The same with the file's absolute path."""
    path, _, factory = spec.rpartition(":")
    return f"{Path(path).absolute()}:{factory}"


def build(spec: str, *, num_classes: int, in_channels: int, trust_code: bool) -> nn.Module:
    """Call the factory with those of `num_classes`, `in_channels` that it takes by name.

    Raises ConfigError without `trust_code`, and where the file or the factory fails or returns no
    nn.Module.
    """
    factory = load_function(spec, trust_code=trust_code)
    given: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    try:
        takes = inspect.signature(factory).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            given = {k: v for k, v in given.items() if k in takes}
        net = factory(**given)
    except Exception as e:  # somebody else's code raises anything
        raise ConfigError(f"--model {spec} fails ({type(e).__name__}: {e})") from e
    if not isinstance(net, nn.Module):
        raise ConfigError(f"--model {spec} must return an nn.Module, got {type(net).__name__}")
    return net
