"""A user's own network: `FILE.py:FACTORY`, which runs only with --trust-code."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from torch import nn

from fggp_deploy.common.files import sha256_file
from fggp_deploy.common.user_code import load_function, raised
from fggp_deploy.errors import ConfigError


def is_spec(name: str) -> bool:
    """True for `FILE.py:FACTORY`."""
    return ".py:" in name


def path_of(spec: str) -> Path:
    """FILE.py of `FILE.py:FACTORY`."""
    return Path(spec.rpartition(":")[0])


def digest(spec: str) -> str:
    """Hex SHA-256 of the file; raises ConfigError if it cannot be read."""
    try:
        return sha256_file(path_of(spec))
    except OSError as e:
        raise ConfigError(f"{path_of(spec)} cannot be read ({e.strerror or e})") from e


def recorded(spec: str, run: Path) -> str:
    """The spec with the file's path relative to a run folder, so that both can move together."""
    path, factory = path_of(spec).resolve(), spec.rpartition(":")[2]
    try:
        shown = Path(os.path.relpath(path, run.resolve()))
    except ValueError:  # another drive
        shown = path
    return f"{shown.as_posix()}:{factory}"


def recorded_place(spec: str, run: Path) -> Path:
    """The expected path of the file of a recorded spec."""
    return (run.resolve() / path_of(spec)).resolve()


def found_again(spec: str, run: Path, sha256: str | None) -> str | None:
    """A recorded spec with a path from the current folder; None if the file does not exist.

    The file at the recorded path is used, whatever its content. If there is none, a file with the
    same name and the recorded content in the run folder or in the current folder is used.
    """
    place, factory = recorded_place(spec, run), spec.rpartition(":")[2]
    if place.is_file():
        return f"{place}:{factory}"
    for folder in (run, Path()):
        moved = f"{(folder / place.name).resolve()}:{factory}"
        if sha256 is not None and path_of(moved).is_file() and digest(moved) == sha256:
            return moved
    return None


def build(spec: str, *, num_classes: int, in_channels: int, trust_code: bool) -> nn.Module:
    """Call the factory with those of `num_classes` and `in_channels` that it accepts by name.

    Raises ConfigError without `trust_code`, and if the file or the factory fails or does not return
    an nn.Module.
    """
    factory = load_function(spec, trust_code=trust_code)
    given: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    try:
        takes = inspect.signature(factory).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            given = {k: v for k, v in given.items() if k in takes}
        net = factory(**given)
    except Exception as e:  # the user's code may raise anything
        raise ConfigError(f"--model {spec} fails: {raised(e)}") from e
    if not isinstance(net, nn.Module):
        raise ConfigError(f"--model {spec} must return an nn.Module, got {type(net).__name__}")
    return net
