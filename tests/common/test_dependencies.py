"""The bounds of what the package depends on: each has an upper end, and edge.txt has the same."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
EXTRAS = [
    Requirement(line)
    for lines in PYPROJECT["project"]["optional-dependencies"].values()
    for line in lines
]


def has_upper_bound(requirement: Requirement) -> bool:
    return any(bound.operator in ("<", "<=", "==") for bound in requirement.specifier)


@pytest.mark.parametrize("requirement", [*NEEDED, *EXTRAS], ids=lambda r: r.name)
def test_every_dependency_has_an_upper_bound_that_these_tests_ran_within(requirement):
    assert has_upper_bound(requirement)
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        pytest.skip("an extra that is not installed")
    assert requirement.specifier.contains(installed.partition("+")[0], prereleases=True)


def test_a_device_gets_the_same_bounds():
    lines = (ROOT / "requirements" / "edge.txt").read_text(encoding="utf-8").splitlines()
    edge = {str(Requirement(line)) for line in lines if not line.startswith("#")}
    assert edge
    assert edge <= {str(requirement) for requirement in NEEDED}
