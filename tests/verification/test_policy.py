"""Policies: gates in a file."""

from __future__ import annotations

import pytest

from fggp_deploy.errors import ConfigError
from fggp_deploy.verification.gates import Gates
from fggp_deploy.verification.policy import overridden, read_policy


def test_a_policy_is_its_gates(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(
        "version: 1\nmax_drop: 1.5\nmax_bytes: 400000\nmin_agreement: 0.9\nstrict: true\n"
    )
    policy = read_policy(path)
    assert policy == Gates(max_drop_points=1.5, max_bytes=400000, min_agreement=0.9, strict=True)
    found = overridden(policy, Gates(max_bytes=5, min_speedup=2))
    assert (found.max_bytes, found.min_speedup, found.max_drop_points) == (5, 2, 1.5)
    assert found.strict


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("max_drop: 1", "version: 1"),
        ("- 1", "mapping"),
        ("version: 1", "sets no gate"),
        ("version: 1\nmax_dorp: 1", "did you mean 'max_drop'"),
        ("version: 1\nmax_drop: lots", "must be a number"),
        ("version: 1\nmax_drop: true", "must be a number"),
        ("version: 1\nmax_bytes: 1.5", "must be a number"),
        ("version: 1\nmax_bytes: -5", "positive"),
        ("version: 1\nmin_agreement: .nan", "must be in"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.system [ls]", "cannot be read"),
    ],
)
def test_what_is_no_policy(tmp_path, content, match):
    path = tmp_path / "policy.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=match) as e:
        read_policy(path)
    assert "\n" not in str(e.value)


def test_a_missing_policy(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_policy(tmp_path / "absent.yaml")
