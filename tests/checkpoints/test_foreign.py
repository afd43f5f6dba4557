"""Checkpoints as other people's training code leaves them."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune

from fggp_deploy.checkpoints.checkpoint import is_ours
from fggp_deploy.checkpoints.foreign import read_foreign
from fggp_deploy.errors import CheckpointError, FggpWarning, MachineError


class Net(nn.Module):
    """Two layers, so that every form has a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 2)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(Net().state_dict())


def saved(tmp_path: Path, content: object, name: str = "m.pt", **options: object) -> Path:
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + n: t for n, t in state.items()}


def same(found, state: dict) -> bool:
    return list(found.tensors) == list(state) and all(
        torch.equal(t, state[n]) for n, t in found.tensors.items()
    )


WRAPPED = {
    "bare": lambda s: s,
    "ordered": collections.OrderedDict,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "net": lambda s: {"net": s, "acc": 91.7},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "ema alone": lambda s: {"ema": s, "epoch": 1},
    "state_dict_ema alone": lambda s: {"state_dict_ema": s},
    "averaged model": lambda s: {
        "model_ema": {"n_averaged": torch.tensor(7)} | prefixed("module.", s)
    },
    "two wrappers": lambda s: {"model": {"state_dict": s}},
    "stacked prefixes": lambda s: {"state_dict": prefixed("module._orig_mod.model.", s)},
    "lightning": lambda s: {
        "epoch": 9, "global_step": 100, "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed("model.", s), "loops": {}, "optimizer_states": [],
        "hyper_parameters": {},
    },
    "sparseml": lambda s: {
        "state_dict": s, "recipe": "modifiers: []", "epoch": -1, "arch_key": "resnet50",
    },
    "Namespace beside": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, out=Path("x"))},
    "numpy numbers beside": lambda s: {"model": s, "best": np.float64(91.7), "n": np.int64(3)},
    "defaultdict beside": lambda s: {"model": s, "log": collections.defaultdict(list, a=[1])},
}  # fmt: skip


@pytest.mark.parametrize("form", WRAPPED)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, state: dict, form: str, zipped: bool):
    content = WRAPPED[form](state)
    path = saved(tmp_path, content, "m.ckpt", _use_new_zipfile_serialization=zipped)
    assert same(read_foreign(path), state)


def test_hyper_parameters_of_lightning_are_passed_over(tmp_path: Path, state: dict, monkeypatch):
    module = "lightning_fabric.utilities.data"
    kind = type("AttributeDict", (dict,), {"__module__": module})
    for name in ("lightning_fabric", "lightning_fabric.utilities", module):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(AttributeDict=kind))
    path = saved(tmp_path, {"state_dict": state, "hyper_parameters": kind(lr=0.1)})
    assert same(read_foreign(path), state)


def test_the_content_decides_not_the_suffix(tmp_path: Path, state: dict):
    safetensors.torch.save_file(state, tmp_path / "m.pth")
    assert {*read_foreign(tmp_path / "m.pth").tensors} == {*state}
    assert same(read_foreign(saved(tmp_path, state, "m.safetensors")), state)
    assert not is_ours(tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", ["model_best.pth.tar", "weights", "m.safetensors", "m.onnx"])
def test_inspect_goes_by_the_content_too(program, state: dict, name: str):
    saved(program.cwd, state, name)
    shown = program("inspect", name, "--json")
    assert shown.code == 0, shown.err
    assert {row["name"] for row in shown.json["layers"]} == {n for n in state if state[n].ndim > 1}


def test_inspect_says_what_it_reads(program):
    (program.cwd / "notes.txt").write_text("lr 0.1 was too high")
    shown = program("inspect", "notes.txt")
    assert shown.code == 2
    assert "notes.txt is not a checkpoint" in shown.err
    assert "inspect reads" in shown.err


def test_averaged_weights_beside_the_plain_ones_are_told(tmp_path: Path, state: dict):
    other = {n: t + 1 for n, t in state.items()}
    path = saved(tmp_path, {"state_dict": state, "state_dict_ema": other})
    with pytest.warns(FggpWarning, match=r"state_dict_ema\); state_dict is used"):
        assert same(read_foreign(path), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_other_precisions_load(tmp_path: Path, state: dict, dtype: torch.dtype, name: str):
    half = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    if name.endswith("pt"):
        saved(tmp_path, half, name)
    else:
        safetensors.torch.save_file(half, tmp_path / name)
    found = read_foreign(tmp_path / name)
    assert found.tensors["fc.weight"].dtype == dtype
    Net().load_state_dict(found.tensors)


# Masks. Of each form, `fc.weight` keeps [[1, 0, 1, 1], [0, 1, 1, 1]] of weights 1 to 8, and one
# weight that is kept is itself zero: it stays alive.
KEPT = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1]]).bool()
W = torch.tensor([[0.0, 2, 3, 4], [5, 6, 7, 8]])
MASKED = {
    "torch.nn.utils.prune": {"fc.weight_orig": W, "fc.weight_mask": KEPT.float()},
    "weight and mask": {"fc.weight": W, "fc.weight_mask": KEPT},
    "torch.ao.pruning": {
        "fc.parametrizations.weight.original": W, "fc.parametrizations.weight.0.mask": KEPT,
    },
    "NNCF 1": {
        "nncf_module.fc.weight": W, "nncf_module.fc.pre_ops.0.op._binary_mask": KEPT.float(),
    },
    "NNCF 2": {"fc.weight": W, "fc.pre_ops.0.op._binary_mask": KEPT.float()},
    "NNCF 2, regularized": {
        "fc.weight": W, "fc.pre_ops.0.op._mask": KEPT.float() * 8 - 4,
        "fc.pre_ops.0.op._binary_mask": KEPT.float(), "fc.pre_ops.0.op.uniform": torch.zeros(1),
    },
    "NNCF 3": {"fc.weight": W, "__nncf_hooks.post_hooks.fc:weight__0.0.binary_mask": KEPT},
    "NNCF 3, regularized": {
        "fc.weight": W, "__nncf_hooks.post_hooks.fc:weight__0.0.mask": KEPT.float() * 8 - 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("form", MASKED)
def test_masks_of_pruning_tools_are_the_truth(tmp_path: Path, form: str):
    found = read_foreign(saved(tmp_path, {"state_dict": MASKED[form]}))
    assert list(found.tensors) == ["fc.weight"]
    assert found.tensors["fc.weight"].tolist() == (W * KEPT).tolist()
    assert found.masks["fc.weight"].tolist() == KEPT.tolist()


def test_nncf_names_of_nested_layers(tmp_path: Path):
    content = {
        "nncf_module.layer.0.conv.weight": W,
        "nncf_module.layer.0.conv.pre_ops.3.op._binary_mask": KEPT.float(),
        "nncf_module.fc.weight": W,
    }
    assert list(read_foreign(saved(tmp_path, content)).masks) == ["layer.0.conv.weight"]
    content = {
        "layer.0.conv.weight": W,
        "__nncf_hooks.post_hooks.layer:0:conv:weight__0.0.binary_mask": KEPT,
    }
    assert list(read_foreign(saved(tmp_path, content)).masks) == ["layer.0.conv.weight"]


def test_what_torch_prunes_itself(tmp_path: Path):
    net = Net()
    prune.l1_unstructured(net.layer[0], "weight", amount=0.5)
    prune.random_unstructured(net.fc, "bias", amount=1)
    found = read_foreign(saved(tmp_path, net.state_dict()))
    assert torch.equal(found.tensors["layer.0.weight"], net.layer[0].weight)
    assert torch.equal(found.masks["layer.0.weight"], net.layer[0].weight_mask.bool())
    assert int(found.masks["fc.bias"].sum()) == 1
    Net().load_state_dict(found.tensors)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"w_orig": W, "w_mask": KEPT.float() / 2}, "has values other than 0 and 1"),
        (
            {"fc.weight": W, "fc.pre_ops.0.op._binary_mask": torch.ones(3)},
            "does not match the shape of any weight",
        ),
        ({"fc.parametrizations.weight.original": W}, r"remove_parametrizations\(model\.fc, 'wei"),
        ({"fc.parametrizations.weight.original0": W}, "hidden behind a parametrization"),
        ({"fc.weight": W, "fc.pre_ops.0.op._num_bits": torch.tensor(8)}, "quantized"),
        ({"fc.weight_fake_quant.scale": W}, "quantized"),
        ({"w": W / 0}, "w holds NaN or infinity"),
        ({"w": torch.full((2,), 1e300, dtype=torch.float64)}, "w holds NaN or infinity"),
        ({"w": W.to(torch.complex64)}, "is not a dense real tensor"),
        ({"w": W.to_sparse()}, "is not a dense real tensor|Python objects"),
        ({"w": torch.zeros(1).expand(10**13)}, "claims more weights than it has bytes"),
        ({}, "no state dict"),
        ([1, 2], "no state dict"),
        ({"epoch": 3}, "no tensors"),
        ({"state_dict": argparse.Namespace(a=1)}, "no tensors"),
        (torch.ones(2), "no state dict"),
        (bytearray(8), "Python objects"),
        (W.to("meta"), "Python objects|no dense"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_used_is_told_with_its_cure(tmp_path: Path, content: object, says: str):
    with pytest.raises(CheckpointError, match=says):
        read_foreign(saved(tmp_path, content))


class Evil:
    def __reduce__(self):
        return (print, ("this code ran",))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickled_code_is_refused_and_does_not_run(tmp_path, capsys, protocol: int, zipped: bool):
    how = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    path = saved(tmp_path, {"state_dict": {"w": W}, "hook": Evil()}, **how)
    with pytest.raises(CheckpointError, match=r"builtins\.print.* would run code.*refused"):
        read_foreign(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=protocol))
    with pytest.raises(CheckpointError):
        read_foreign(path)
    assert "this code ran" not in capsys.readouterr().out


def test_a_whole_network_is_refused_with_the_cure(tmp_path: Path):
    with pytest.raises(
        CheckpointError,
        match=r"holds a pickled network \(\w+\.Net\).*torch\.save\(model\.state_dict",
    ):
        read_foreign(saved(tmp_path, Net()))
    with pytest.raises(CheckpointError, match=r"holds a pickled network \(torch\.nn\.modules"):
        read_foreign(saved(tmp_path, nn.Linear(1, 1)))


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_are_refused_with_the_cure(tmp_path: Path):
    w = torch.quantize_per_tensor(W, 0.1, 0, torch.qint8)
    with pytest.raises(CheckpointError, match="quantized network; give the float weights"):
        read_foreign(saved(tmp_path, {"w": w}))


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_refused_with_the_cure(tmp_path: Path):
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), str(tmp_path / "m.pt"))
    with pytest.raises(CheckpointError, match=r"TorchScript.*torch\.jit\.load"):
        read_foreign(tmp_path / "m.pt")


def test_packed_archives_and_other_zips(tmp_path: Path):
    np.savez(tmp_path / "m.npz", a=np.ones(3))
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
        read_foreign(tmp_path / "m.npz")
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        z.writestr("a/data/0", bytes(10**7))
    with pytest.raises(CheckpointError, match="packed archive"):
        read_foreign(tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"garbage", "not a PyTorch checkpoint"),
        (b"PK\x03\x04rest is missing", "not a PyTorch checkpoint"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xff" * 7 + b"\x7f{", "not a readable safetensors"),  # a header of 2^63 bytes
        (b'\x10\0\0\0\0\0\0\0{"w":', "not a readable safetensors"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        read_foreign(tmp_path / "m.pt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_cut_off_file(tmp_path: Path, state: dict, zipped: bool):
    path = saved(tmp_path, state, _use_new_zipfile_serialization=zipped)
    raw = path.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(raw[: int(share * len(raw))])
        with pytest.raises(CheckpointError, match="cut off"):
            read_foreign(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_paths_that_are_no_files(tmp_path: Path, suffix: str):
    path = tmp_path / f"m{suffix}"

    def says(text: str, error: type[Exception] = CheckpointError) -> None:
        for read in (read_foreign, is_ours):
            with pytest.raises(error, match=text):
                read(path)

    says("does not exist")
    path.mkdir()
    says("is a folder; give the file in it")
    path.rmdir()
    path.symlink_to(path.name)
    says("a loop of symbolic links")
    path.unlink()
    os.mkfifo(path)  # reading it would wait for ever
    says("not a regular file")
    path.unlink()
    path.touch(mode=0o000)
    if os.geteuid():
        says("may not be read", MachineError)
    path = tmp_path / "file" / "m.pt"
    (tmp_path / "file").touch()
    says("does not exist: a part of it is a file")
    path = tmp_path / ("x" * 300)
    says("cannot be opened")


def test_a_name_that_is_no_text(tmp_path: Path, state: dict):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.pt"))
    saved(tmp_path, state).rename(path)
    for read in (read_foreign, is_ours):
        with pytest.raises(CheckpointError, match=r"is not UTF-8 text.*rename it"):
            read(path)
