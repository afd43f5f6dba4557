"""Weights that were pruned elsewhere become a file without data and without training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import pruned
from torch import nn
from torch.nn.utils import prune as torch_prune

from fggp_deploy import models
from fggp_deploy.data import Preprocessing
from fggp_deploy.errors import CheckpointError, ConfigError
from fggp_deploy.exporters.options import ExportOptions, ImageOptions
from fggp_deploy.exporters.run import export_run
from fggp_deploy.format.model import SparseModel
from fggp_deploy.measure.network import load

pytestmark = pytest.mark.usefixtures("shapes_in_process")

OWN = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(16, 4))
"""
HALF = (0.5, 0.5, 0.5)


def half_pruned(network: nn.Module) -> nn.Module:
    """Half of every convolution's weights removed, as torch's own pruning leaves it."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            torch_prune.random_unstructured(module, "weight", 0.5)
    return network.eval()


@pytest.fixture
def resnet(tmp_path):
    net = half_pruned(models.build("resnet20", num_classes=7, in_channels=3))
    torch.save({"state_dict": net.state_dict()}, tmp_path / "mine.pth.tar")
    return net


def test_a_network_by_name_with_what_is_assumed(tmp_path, resnet):
    made = export_run(tmp_path / "mine.pth.tar", ExportOptions(network="resnet20"))
    assert made.path == tmp_path / "mine.pth.onnx"
    assert made.reference is None
    convs = sum(m.weight.numel() for m in resnet.modules() if isinstance(m, nn.Conv2d))
    assert made.sparsity == pytest.approx(0.5 * convs / (convs + 7 * 64), abs=1e-3)
    meta = SparseModel.open(made.path).metadata
    assert meta.model == "resnet20"
    assert meta.data is None
    assert meta.classes == tuple("0123456")
    assert (meta.preprocessing.height, meta.preprocessing.mean[0]) == (32, 0.485)
    assert made.notes[0].startswith("assumed: --image-size 32, --mean 0.485,0.456,0.406 --std 0.2")
    assert "classes called 0 … 6 (--classes FILE names them)" in made.notes[0]

    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    got = load("m", SparseModel.open(made.path).runnable(), threads=1).logits(x)
    with torch.inference_mode():
        want = resnet(torch.from_numpy(x)).numpy()
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


def test_what_is_given_is_not_assumed(tmp_path, resnet):
    given = ImageOptions(classes=tuple("abcdefg"), image_size=40, mean=HALF, std=(0.25, 0.25, 0.25))
    made = export_run(
        tmp_path / "mine.pth.tar",
        ExportOptions(network="resnet20", images=given, out=tmp_path / "m.onnx"),
    )
    meta = SparseModel.open(tmp_path / "m.onnx").metadata
    assert meta.classes == tuple("abcdefg")
    assert meta.preprocessing == Preprocessing(40, 40, HALF, (0.25, 0.25, 0.25), resize=40)
    assert not any("assumed" in note for note in made.notes)


def test_the_images_of_a_librarys_network_are_those_of_its_own_weights(tmp_path):
    net = models.build("torchvision:squeezenet1_1", num_classes=5, in_channels=3)
    torch.save(half_pruned(net).state_dict(), tmp_path / "w.pt")
    made = export_run(tmp_path / "w.pt", ExportOptions(network="torchvision:squeezenet1_1"))
    prepare = SparseModel.open(made.path).metadata.preprocessing
    assert (prepare.height, prepare.resize, prepare.mean) == (224, 256, (0.485, 0.456, 0.406))


def test_a_network_of_the_users_own_needs_its_image_size(program):
    (program.cwd / "net.py").write_text(OWN)
    net = models.build(f"{program.cwd}/net.py:make", num_classes=4, in_channels=3, trust_code=True)
    torch.save(half_pruned(net).state_dict(), program.cwd / "w.pt")
    args = ["export", "w.pt", "--model", "net.py:make", "--trust-code"]
    ended = program(*args)
    assert ended.code == 2
    assert "nobody says what images net.py:make takes; give --image-size" in ended.err
    ended = program(*args, "--image-size", 2)
    assert ended.code == 2
    assert "net.py:make does not run on images of 3×2×2 (RuntimeError" in ended.err
    (program.cwd / "names.txt").write_text("a\nb\nc\nd\n")
    ended = program(*args, "--image-size", 24, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5",
                    "--classes", "names.txt")  # fmt: skip
    assert ended.code == 0, ended.err
    assert "assumed" not in ended.out
    meta = SparseModel.open(program.cwd / "w.onnx").metadata
    assert (meta.model, meta.classes) == ("net.py:make", tuple("abcd"))


def test_what_is_missing_or_too_much_is_named(tmp_path, resnet):
    path = tmp_path / "mine.pth.tar"
    with pytest.raises(CheckpointError, match=r"give --model NAME.*It fits --model resnet20"):
        export_run(path)
    with pytest.raises(
        CheckpointError, match=r"mine\.pth\.tar in resnet32: the names of the weights differ"
    ):
        export_run(path, ExportOptions(network="resnet32"))
    with pytest.raises(CheckpointError, match="7, 64"):
        export_run(path, ExportOptions(network="resnet20", images=ImageOptions(classes=("a", "b"))))
    with pytest.raises(ConfigError, match="give --trust-code"):
        export_run(path, ExportOptions(network=f"{tmp_path}/net.py:make"))


def test_a_run_says_itself_what_its_images_are(tmp_path):
    pruned(tmp_path / "pruned.safetensors", "resnet20", 32)
    with pytest.raises(ConfigError, match=r"pruned\.safetensors records .*; omit .*--image-size"):
        export_run(
            tmp_path / "pruned.safetensors", ExportOptions(images=ImageOptions(image_size=32))
        )
