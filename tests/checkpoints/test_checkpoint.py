from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo
from fggp_deploy.data import Preprocessing
from fggp_deploy.errors import CheckpointError, FggpError

INFO = CheckpointInfo(
    model="resnet20",
    data="cifar10",
    classes=("a", "b"),
    preprocessing=Preprocessing(2, 2, (0.5,), (1.0,)),
    prunable=("w",),
    target=0.5,
)


def sample() -> Checkpoint:
    w = np.array([[0, 1, 2], [0, 0, 3]], np.float32)
    tensors = {"w": w, "n": np.array(7, np.int64)}
    return Checkpoint(tensors, {"w": w != 0}, INFO)


def test_round_trip(tmp_path: Path):
    sample().save(tmp_path / "c.safetensors")
    c = Checkpoint.open(tmp_path / "c.safetensors")
    assert c.info == INFO
    assert c.tensors["w"].tolist() == sample().tensors["w"].tolist()
    assert c.tensors["n"].shape == ()
    assert c.masks["w"].tolist() == [[False, True, True], [False, False, True]]


def test_any_reader_of_safetensors_gets_the_state_dict(tmp_path: Path):
    sample().save(tmp_path / "c.safetensors")
    plain = safetensors.numpy.load_file(tmp_path / "c.safetensors")
    assert set(plain) == {"w", "n", "fggp.mask.w"}
    assert plain["fggp.mask.w"].tolist() == [0b100110]


def write(path: Path, tensors: dict, info: str | None = None) -> Path:
    meta = None if info is None else {"fggp": info}
    path.write_bytes(safetensors.numpy.save(tensors, meta))
    return path


@pytest.mark.parametrize(
    ("tensors", "info", "says"),
    [
        ({"w": np.array([np.nan], np.float32)}, None, "w holds NaN or infinity"),
        ({"fggp.mask.w": np.array([1], np.uint8)}, None, "does not match the shape of any weight"),
        (
            {"w": np.ones(9, np.float32), "fggp.mask.w": np.array([255], np.uint8)},
            None,
            "does not match the shape of any weight",
        ),
        (
            {"w": np.ones(8, np.float32), "fggp.mask.w": np.array([127], np.uint8)},
            None,
            "non-zero weights that its mask removes",
        ),
        ({}, "[]", "description is damaged"),
        ({}, '{"version": 2}', "newer format"),
        ({}, '{"version": 1}', "description is damaged"),
        ({}, INFO.to_json().replace('"resnet20"', '["resnet20"]'), "description is damaged"),
        ({}, INFO.to_json().replace('"height": 2', '"height": 1e999'), "description is damaged"),
        ({}, "[" * 100_000, "description is damaged"),
        ({}, INFO.to_json().replace('"std": [1.0]', '"std": [0]'), "description is damaged"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, tensors: dict, info: str | None, says: str):
    with pytest.raises(CheckpointError, match=says):
        Checkpoint.open(write(tmp_path / "c.safetensors", tensors, info))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_files_never_crash(tmp_path_factory, data: st.DataObject):
    path = tmp_path_factory.mktemp("d") / "c.safetensors"
    sample().save(path)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    else:
        for _ in range(data.draw(st.integers(1, 8))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    with contextlib.suppress(FggpError):
        Checkpoint.open(path)


def test_missing_file(tmp_path: Path):
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoint.open(tmp_path / "none.safetensors")


def test_description_is_json_with_every_field():
    d = json.loads(INFO.to_json())
    assert set(d) == {f.name for f in dataclasses.fields(CheckpointInfo)} | {"version"}
