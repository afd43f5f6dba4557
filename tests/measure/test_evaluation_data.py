"""Which data a model file may have opened: built-in sets, or what the user or the run names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fggp_deploy import data as datasets
from fggp_deploy.common.progress import silent
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import DataError
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.measure.evaluation_data import images_of


def of(data: str | None) -> Metadata:
    return Metadata(Preprocessing(8, 8, (0.5,), (0.25,)), ("a", "b"), data=data)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the data sets that were opened; none is read."""
    names: list[str] = []

    def instead(name: str, *_: Any) -> None:
        names.append(name)

    monkeypatch.setattr(datasets, "load", instead)
    return names


@pytest.mark.parametrize("name", ["folder:/etc", "hf:someone/set", "mine.py:make", "/etc", "cifar"])
def test_a_model_opens_no_data_of_its_own_choice(name: str, tmp_path: Path, opened: list[str]):
    with pytest.raises(DataError, match="opened only if you name it; give --data"):
        images_of(of(name), tmp_path, progress=silent)
    assert opened == []
    images_of(of(name), tmp_path, "folder:here", progress=silent)
    assert opened == ["folder:here"]


def test_the_run_names_its_data(tmp_path: Path, opened: list[str]):
    (tmp_path / "config.yaml").write_text("data: folder:/home/me/flowers\n")
    images_of(of("folder:flowers"), tmp_path, progress=silent)
    assert opened == ["folder:/home/me/flowers"]


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_built_in_data_are_opened(name: str, tmp_path: Path, opened: list[str]):
    images_of(of(name), tmp_path, progress=silent)
    assert opened == [name]


def test_a_model_that_names_none_has_none(tmp_path: Path, opened: list[str]):
    assert images_of(of(None), tmp_path, progress=silent) is None
