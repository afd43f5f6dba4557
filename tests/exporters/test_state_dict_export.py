"""Back into the user's own code: load_state_dict(strict=True) and the same answers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import tiny
from nets import pruned
from torch import nn

from fggp_deploy import models
from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.checkpoints.foreign import read_foreign
from fggp_deploy.cli.networks import OriginalNetwork
from fggp_deploy.common.files import sha256_file
from fggp_deploy.errors import ConfigError, ModelFileError, UnknownName
from fggp_deploy.exporters.options import ExportOptions
from fggp_deploy.exporters.run import export_run
from fggp_deploy.format.model import SparseModel


def same_answers(a: nn.Module, b: nn.Module, size: int) -> bool:
    x = torch.randn(2, 3, size, size)
    return torch.equal(a.eval()(x), b.eval()(x))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_torchvisions_own_class_takes_it_strictly(tmp_path: Path, name: str):
    ours = pruned(tmp_path / "pruned.safetensors", "torchvision:mobilenet_v3_small", 64)
    made = export_run(
        tmp_path / "pruned.safetensors", ExportOptions(format="state-dict", out=tmp_path / name)
    )
    assert made.self_test_error == 0
    assert made.sparsity == pytest.approx(0.5, abs=0.01)
    from torchvision.models import mobilenet_v3_small

    theirs = mobilenet_v3_small(num_classes=10)
    if name.endswith("pt"):
        state = torch.load(made.path, weights_only=True)
    else:
        state = safetensors.torch.load_file(made.path)
    theirs.load_state_dict(state, strict=True)
    assert same_answers(ours, theirs, 64)
    assert int((state["features.1.block.0.0.weight"] == 0).sum()) > 0


def test_the_users_own_names_come_back(tmp_path: Path):
    theirs = models.build("resnet20-b", num_classes=10, in_channels=3).state_dict()
    for old, new in (("fc.", "linear."), ("shortcut.", "downsample.")):
        theirs = {n.replace(old, new): t for n, t in theirs.items()}
    theirs = {f"backbone.{n}": t for n, t in theirs.items()}
    pruned(tmp_path / "pruned.safetensors", "resnet20-b", 32, theirs)
    made = export_run(tmp_path / "pruned.safetensors", ExportOptions(format="state-dict"))
    assert made.path == tmp_path / "weights.pt"
    assert {*read_foreign(made.path).tensors} == {*theirs}
    assert "backbone.layer2.0.downsample.0.weight" in theirs


def test_wrong_names_for_the_file_or_the_format(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"must end in \.pt, \.pth, \.safetensors"):
        export_run(
            tmp_path / "p.safetensors", ExportOptions(format="state-dict", out=tmp_path / "m.onnx")
        )
    with pytest.raises(UnknownName, match="did you mean 'state-dict'"):
        export_run(tmp_path / "p.safetensors", ExportOptions(format="statedict"))


OWN = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4, bias=False)
        self.deep = nn.Conv2d(8, 16, 3, stride=4, bias=False)
        self.out = nn.Linear(16 * 2 * 2, num_classes)

    def forward(self, x):
        return self.out(self.deep(self.stem(x).relu()).relu().flatten(1))


def make(num_classes=10):
    return Net(num_classes)
"""


@pytest.fixture
def own(program):
    """A user's folder: net.py, and weights.pt as a multi-GPU script saved them."""
    (program.cwd / "net.py").write_text(OWN)
    net = models.build(f"{program.cwd / 'net.py'}:make", num_classes=10, in_channels=3,
                       trust_code=True)  # fmt: skip
    state = {f"module.{n}": t for n, t in net.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, program.cwd / "weights.pt")
    return program


def test_a_network_of_the_users_own_all_the_way(own, cifar):
    args = ["prune", *tiny(cifar)[2:], "--model", "net.py:make", "--checkpoint", "weights.pt"]
    made = own(*args, "--target", 0.8, "--trust-code", "--out", "run", "--json")
    assert made.code == 0, made.err
    pruned = own.cwd / "run" / "pruned.safetensors"
    info = Checkpoint.open(pruned).info
    assert info is not None
    assert info.model == "../net.py:make"
    assert info.model_code_sha256 == sha256_file(own.cwd / "net.py")

    with pytest.raises(ConfigError, match=r"would run code from .*net\.py; give --trust-code"):
        export_run(pruned)
    exported = export_run(pruned, ExportOptions(trust_code=True))
    assert str(own.cwd).encode() not in exported.path.read_bytes()
    assert SparseModel.open(exported.path).metadata.model == "net.py:make"

    assert OriginalNetwork(exported.path, trust_code=True).as_onnx() is not None
    with pytest.raises(ModelFileError, match="give --trust-code"):
        OriginalNetwork(exported.path).as_onnx()

    plain = export_run(pruned, ExportOptions(format="state-dict", trust_code=True))
    net = models.build(f"{own.cwd}/net.py:make", num_classes=10, in_channels=3, trust_code=True)
    net.load_state_dict(torch.load(plain.path, weights_only=True), strict=True)
    n_zeros = sum(int((net.get_parameter(n) == 0).sum()) for n in info.prunable)
    assert n_zeros == made.json["n_removed"]


def test_a_run_with_a_network_of_the_users_own_can_be_moved(own, cifar):
    args = ["prune", *tiny(cifar)[2:], "--model", "net.py:make", "--checkpoint", "weights.pt"]
    made = own(*args, "--target", 0.8, "--trust-code", "--out", "old/runs/a")
    assert made.code == 0, made.err

    def exported(folder: str, *more: str, warns: str = "") -> None:
        ended = own("export", folder, "--trust-code", *more)
        assert ended.code == 0, ended.err
        assert warns in ended.err if warns else "warning" not in ended.err, ended.err

    home, new = own.cwd / "old", own.cwd / "new"
    (home / "runs" / "b").mkdir()
    own_code = (own.cwd / "net.py").read_text()
    shutil.move(own.cwd / "net.py", own.cwd / "code.py")
    ended = own("export", "old/runs/a", "--trust-code")
    assert ended.code == 2
    assert f"and that file is not at {own.cwd}/net.py; name its new place" in ended.err
    assert "--model PATH/net.py:make --trust-code" in ended.err
    exported("old/runs/a", "--model", "code.py:make")
    packed, code = home / "runs" / "a" / "model.onnx", f"{own.cwd}/code.py:make"
    assert OriginalNetwork(packed, network=code, trust_code=True).as_onnx() is not None
    with pytest.raises(ModelFileError, match=r"that file is not at .*net\.py; name its new place"):
        OriginalNetwork(packed, trust_code=True).as_onnx()

    new.mkdir()
    shutil.move(home / "runs", new / "runs")  # the run alone
    (new / "runs" / "a" / "net.py").write_text(own_code)
    exported("new/runs/a")
    (new / "runs" / "a" / "net.py").write_text(own_code + "# changed")
    assert own("export", "new/runs/a", "--trust-code").code == 2
    (own.cwd / "net.py").write_text(own_code + "# changed")
    exported("new/runs/a", warns="is not the file that new/runs/a/pruned.safetensors was made with")

    moved = own("prune", *tiny(cifar)[2:], "--model", "code.py:make", "--trust-code",
                "--checkpoint", "new/runs/a", "--target", 0.9, "--out", "again")  # fmt: skip
    assert moved.code == 0, moved.err
    assert "is not the file" not in moved.err
    other = own("prune", *tiny(cifar), "--checkpoint", "new/runs/a", "--target", 0.9)
    assert "pruned.safetensors is a net.py:make, not a resnet20; give --model net.py" in other.err


def test_weights_for_other_classes_get_a_new_head_by_train_only(own, cifar):
    state = {n.removeprefix("module."): t
             for n, t in torch.load(own.cwd / "weights.pt")["state_dict"].items()}  # fmt: skip
    state["out.weight"], state["out.bias"] = torch.ones(7, 64), torch.ones(7)
    torch.save(state, own.cwd / "seven.pt")
    args = [*tiny(cifar)[2:], "--model", "net.py:make", "--trust-code", "--checkpoint", "seven.pt"]
    made = own("train", *args, "--new-head", "--lr", "1e-9", "--out", "run", "--json")
    assert made.code == 0, made.err
    trained = Checkpoint.open(own.cwd / "run" / "dense.safetensors")
    assert trained.tensors["out.weight"].shape == (10, 64)
    assert torch.allclose(torch.from_numpy(trained.tensors["stem.weight"]), state["stem.weight"],
                          atol=1e-6)  # fmt: skip


@pytest.mark.shared
@pytest.mark.skipif("FGGP_CIFAR10_RESNET20" not in os.environ, reason="names cifar10-resnet20.th")
def test_a_published_cifar10_resnet20_has_its_published_accuracy():
    from fggp_deploy.training.batches import Batches
    from fggp_deploy.training.config import PruneConfig
    from fggp_deploy.training.evaluation import accuracy
    from fggp_deploy.training.start import load_start

    config = PruneConfig(
        model="resnet20", data="cifar10", data_dir=Path(os.environ["FGGP_DATA_DIR"]),
        checkpoint=Path(os.environ["FGGP_CIFAR10_RESNET20"]),
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    start = load_start(config, config.checkpoint)
    device = torch.device("cpu")
    test = Batches(start.data.test, start.data.preprocessing, batch_size=250, device=device)
    assert round(accuracy(start.model, test) * len(start.data.test)) == 9173
