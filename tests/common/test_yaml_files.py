"""YAML is read in bounded time and memory, and everything wrong with it is one ConfigError."""

from __future__ import annotations

from pathlib import Path

import pytest

from fggp_deploy.common.yaml_files import MAX_BYTES, MAX_DEPTH, MAX_VALUES, parse_yaml, read_yaml
from fggp_deploy.errors import ConfigError
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.recipes import resolve
from fggp_deploy.training.resume import earlier_run
from fggp_deploy.verification.policy import read_policy

DOUBLED = "\n".join(
    ["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
)
MERGED = "\n".join(
    ["a0: &a0 {k: 1}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40))]
)
HOSTILE = {
    "deep": ("a: {" * 3000, "deep"),
    "open_lists": ("[" * 100_000, "deep"),
    "no_such_date": ("max_drop: 2020-99-99", "as YAML"),
    "long_integer": ("max_drop: " + "9" * 5000, "as YAML"),
    "sexagesimal": ("a: 1:" + "59:" * 400 + "59.0", "as YAML"),
    "aliases_that_double": (DOUBLED, "values"),
    "merges_that_double": (MERGED, "values"),
    "an_object": ("!!python/object/apply:os.system [true]", "as YAML"),
    "unknown_alias": ("a: *b", "as YAML"),
    "list_as_a_key": ("[1]: 2", "as YAML"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("reader", ["config", "policy", "run"])
def test_a_hostile_file_is_one_clear_error(tmp_path: Path, case: str, reader: str):
    text, says = HOSTILE[case]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as e:
        if reader == "config":
            resolve(PruneConfig, file=path, explicit={})
        elif reader == "policy":
            read_policy(path)
        else:
            earlier_run(tmp_path)
    assert len(str(e.value)) < 500


def test_bytes_that_are_no_text(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="as YAML"):
        read_yaml(path, what="c.yaml")


def test_limits_are_exact(tmp_path: Path):
    def nested(depth: int) -> str:
        return "[" * depth + "]" * depth

    assert parse_yaml(nested(MAX_DEPTH), what="it") is not None
    with pytest.raises(ConfigError, match="32 deep"):
        parse_yaml(nested(MAX_DEPTH + 1), what="it")
    some = "a: &a [1, 2]\nb: [" + ", ".join(["*a"] * 1000) + "]"
    assert len(parse_yaml(some, what="it")["b"]) == 1000
    assert MAX_VALUES < 3 * 40_000
    with pytest.raises(ConfigError, match="100,000 values"):
        parse_yaml("a: &a [1, 2]\nb: [" + "*a," * 40_000 + "]", what="it")
    path = tmp_path / "long.yaml"
    path.write_text("# " + "x" * MAX_BYTES)
    with pytest.raises(ConfigError, match="larger than 256 kB"):
        read_yaml(path, what="long.yaml")
