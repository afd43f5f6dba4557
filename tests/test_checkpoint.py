from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fggp_deploy.artifacts.checkpoint import Checkpoint, CheckpointInfo
from fggp_deploy.artifacts.foreign import load_into, read_state_dict
from fggp_deploy.data import Preprocessing
from fggp_deploy.errors import CheckpointError, FggpError
from fggp_deploy.models import build

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
        ({"fggp.mask.w": np.array([1], np.uint8)}, None, "does not fit any weight"),
        (
            {"w": np.ones(9, np.float32), "fggp.mask.w": np.array([255], np.uint8)},
            None,
            "does not fit any weight",
        ),
        (
            {"w": np.ones(8, np.float32), "fggp.mask.w": np.array([127], np.uint8)},
            None,
            "non-zero weights that its mask removes",
        ),
        ({}, "[]", "description is damaged"),
        ({}, '{"version": 2}', "newer format"),
        ({}, '{"version": 1}', "description is damaged"),
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
    with pytest.raises(CheckpointError, match="does not exist"):
        read_state_dict(tmp_path / "none.pt")


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build("resnet20", num_classes=10, in_channels=3).state_dict()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, state: dict, wrap, prefix: str):
    torch.save(wrap({prefix + n: t for n, t in state.items()}), tmp_path / "m.pt")
    got = read_state_dict(tmp_path / "m.pt")
    assert list(got) == list(state)
    load_into(build("resnet20", num_classes=10, in_channels=3), got, what="m.pt")


def test_a_head_of_another_name_fits(state: dict):
    renamed = {n.replace("fc.", "linear."): t for n, t in state.items()}
    model = build("resnet20", num_classes=10, in_channels=3)
    load_into(model, renamed, what="m.pt")
    assert torch.equal(model.fc.weight, state["fc.weight"])


def test_mismatches_name_keys_shapes_and_cures(state: dict):
    model = build("resnet20", num_classes=100, in_channels=3)
    with pytest.raises(CheckpointError, match=r"fc\.weight is \(10, 64\).*\(100, 64\).*classes"):
        load_into(model, state, what="m.pt")
    with pytest.raises(CheckpointError, match=r"unexpected conv1.*another --model"):
        load_into(build("vgg19", num_classes=10, in_channels=3), state, what="m.pt")


class Evil:
    def __reduce__(self):
        return (print, ("this code ran",))


def test_pickled_code_is_refused_and_does_not_run(tmp_path: Path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="would run code when loaded; it is refused"):
        read_state_dict(tmp_path / "evil.pt")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "raw.pth")
    assert "this code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04rest is missing"])
def test_torch_files_that_are_none(tmp_path: Path, content: bytes):
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "m.pt")


def test_a_cut_off_torch_file(tmp_path: Path, state: dict):
    torch.save(state, tmp_path / "m.pt")
    raw = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "m.pt").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(CheckpointError, match=r"cut off|damaged"):
        read_state_dict(tmp_path / "m.pt")


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, torch.ones(2)])
def test_files_without_a_state_dict(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"no state dict|no tensors"):
        read_state_dict(tmp_path / "m.pt")


def test_description_is_json_with_every_field():
    d = json.loads(INFO.to_json())
    assert set(d) == {f.name for f in dataclasses.fields(CheckpointInfo)} | {"version"}
