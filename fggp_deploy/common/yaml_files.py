"""Reads untrusted YAML: its size, its depth and the expansion of its aliases are limited."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from fggp_deploy.errors import ConfigError

MAX_BYTES = 1 << 18  # the options of a run with a thousand layers are a quarter of it
MAX_DEPTH = 32
MAX_VALUES = 100_000  # with aliases expanded


def read_yaml(path: Path, *, what: str) -> Any:
    """The content of a YAML file; raises ConfigError, which calls the file `what`."""
    try:
        with path.open("rb") as f:
            content = f.read(MAX_BYTES + 1)
    except FileNotFoundError as e:
        raise ConfigError(f"{what} does not exist") from e
    except OSError as e:
        raise ConfigError(f"{what} cannot be read ({e.strerror or e})") from e
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{what} is larger than {MAX_BYTES >> 10} kB, the limit for such a file")
    return parse_yaml(content, what=what)


def parse_yaml(text: str | bytes, *, what: str) -> Any:
    """The value that a YAML text holds; raises ConfigError, which calls the text `what`."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        _check(text, what)
        return yaml.safe_load(text)
    except (ValueError, OverflowError, LookupError, TypeError, yaml.YAMLError) as e:
        if isinstance(e, ConfigError):
            raise
        # PyYAML lets the errors of int, float and date through, as of the date 2020-99-99
        detail = " ".join(str(e).split())[:200]
        raise ConfigError(f"{what} cannot be read as YAML ({type(e).__name__}: {detail})") from e


def _check(text: str, what: str) -> None:
    """Raise ConfigError for a text that nests too deep, or is too large once aliases are filled in.

    Works on the stream of events, which costs time and memory in proportion to the text.
    """
    sizes: dict[str, int] = {}  # values in what an anchor names
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]  # anchor, values so far

    def add(anchor: str | None, n: int) -> None:
        if anchor is not None:
            sizes[anchor] = n
        outer, so_far = open_nodes.pop()
        if so_far + n > MAX_VALUES:
            raise ConfigError(f"{what} holds more than {MAX_VALUES:,} values")
        open_nodes.append((outer, so_far + n))

    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.ScalarEvent):
            add(event.anchor, 1)
        elif isinstance(event, yaml.AliasEvent):
            add(None, sizes.get(str(event.anchor), 1))
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(open_nodes) > MAX_DEPTH:
                raise ConfigError(f"{what} nests values more than {MAX_DEPTH} deep")
            open_nodes.append((event.anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            add(*open_nodes.pop())


def parse_assignments(texts: Iterable[str], *, of: str) -> dict[str, Any]:
    """Read KEY=VALUE texts of the option `of`, with values as in YAML; raises ConfigError.

    >>> parse_assignments(["a=1", "b=on"], of="--set")
    {'a': 1, 'b': True}
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{of} takes key=value, got {text!r:.100}")
        values[key.strip()] = parse_yaml(value, what=f"the value of {of} {text!r:.100}")
    return values
