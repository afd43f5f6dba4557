"""Networks: ours, torchvision's, timm's and the user's own."""

from __future__ import annotations

import builtins
import hashlib
import urllib.error
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from fggp_deploy import models
from fggp_deploy.data import Dataset, Preprocessing, Split
from fggp_deploy.errors import CheckpointError, ConfigError, MachineError, UnknownName
from fggp_deploy.models import torchvision_models
from fggp_deploy.models.listing import listing
from fggp_deploy.models.published import Published, cached
from fggp_deploy.training.config import PruneConfig, TrainConfig
from fggp_deploy.training.prune import prune
from fggp_deploy.training.start import new_model


def n_parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# Known counts, 10 classes: the paper's Table 6 gives 0.27, 0.46, 0.66, 0.85 M for 20 to 56.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet20", 0.270), ("resnet32", 0.464), ("resnet44", 0.659), ("resnet56", 0.853),
        ("resnet18", 11.174), ("resnet50", 23.521), ("vgg11", 9.228), ("vgg16", 14.724),
        ("vgg19", 20.035), ("mobilenet_v2", 2.237), ("resnet20-b", 0.272), ("resnet18-a", 11.000),
    ],
)  # fmt: skip
def test_sizes_are_the_literatures(name: str, millions: float):
    net = models.build(name, num_classes=10, in_channels=3)
    assert n_parameters(net) / 1e6 == pytest.approx(millions, abs=6e-4)


@pytest.mark.parametrize("name", models.MODELS)
def test_small_images_of_any_kind_give_logits(name: str):
    net = models.build(name, num_classes=7, in_channels=1).eval()
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_only_option_b_has_weights_in_its_shortcuts():
    for name, has in (("resnet20", False), ("resnet20-b", True), ("resnet50-a", False)):
        net = models.build(name, num_classes=10, in_channels=3)
        assert any("shortcut" in n for n, _ in net.named_parameters()) is has


def test_mobilenet_keeps_small_images_large_enough():
    net = models.build("mobilenet_v2", num_classes=10, in_channels=3).eval()
    assert net.features(torch.zeros(1, 3, 32, 32)).shape == (1, 1280, 4, 4)


def test_names_that_nobody_has():
    for name, says in [
        ("vgg18", r"did you mean 'vgg19'\?.*torchvision:NAME, vgg11"),
        ("torchvision:resnet19", r"unknown torchvision model 'resnet19'; did you mean 'resnet18'"),
        ("nowhere:resnet", "unknown model"),
    ]:
        with pytest.raises(UnknownName, match=says):
            models.check(name)


def test_torchvisions_networks_are_its_own_classes():
    from torchvision.models import resnet18

    net = models.build("torchvision:resnet18", num_classes=5, in_channels=3)
    assert {*net.state_dict()} == {*resnet18(num_classes=5).state_dict()}
    with pytest.raises(ConfigError, match=r"color images \(3 channels\) but the data has 1"):
        models.build("torchvision:resnet18", num_classes=5, in_channels=1)


def test_published_preprocessing_is_the_librarys():
    known = torchvision_models.published("resnet50", "DEFAULT")
    assert (known.resize, known.crop, known.interpolation) == (232, 224, "bilinear")
    assert known.mean == (0.485, 0.456, 0.406)
    assert known.file_name == "resnet50-11ad3fa6.pth"
    with pytest.raises(UnknownName, match="IMAGENET1K_V1"):
        torchvision_models.published("resnet50", "IMAGENET1K_V9")


def test_googlenet_gets_its_second_normalization_from_outside():
    # torchvision normalizes twice: x = (p - m)/s, then x·(s/0.5) + (m - 0.5)/0.5 = (p - 0.5)/0.5
    assert torchvision_models.published("googlenet", "DEFAULT").std == (0.5, 0.5, 0.5)
    net = torchvision_models.build("googlenet", num_classes=10, in_channels=3)
    assert not net.transform_input
    assert net.aux1 is None


def fake(content: bytes) -> Published:
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    return Published(f"https://example.org/{name}", name, (0.5,), (0.5,), 256, 224)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_offline_the_file_to_fetch_and_its_place_are_named(hub: Path, monkeypatch):
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    weights = fake(b"x")
    with pytest.raises(MachineError) as e:
        cached(weights)
    assert str(e.value) == (
        f"cannot download {weights.url} (Name or service not known); download it by hand "
        f"to {hub / weights.file_name}, or give its place with --weights PATH"
    )
    (hub / weights.file_name).write_bytes(b"x")
    assert cached(weights) == hub / weights.file_name
    (hub / weights.file_name).write_bytes(b"y")
    with pytest.raises(CheckpointError, match="is damaged: its SHA-256 does not begin with"):
        cached(weights)


def test_a_file_fetched_by_hand_is_known_by_its_name(tmp_path: Path):
    path, known = models.published("torchvision:resnet18", str(tmp_path / "resnet18-f37072fd.pth"))
    assert path == tmp_path / "resnet18-f37072fd.pth"
    assert known is not None
    assert known.resize == 256
    assert models.published("torchvision:resnet18", "mine.pt")[1] is None
    with pytest.raises(ConfigError, match="give the weights of resnet20 as --checkpoint"):
        models.published("resnet20", "DEFAULT")


def test_without_timm_the_cure_is_named(monkeypatch):
    real = builtins.__import__

    def without_timm(name: str, *args: object, **kwargs: object) -> object:
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(MachineError, match="pip install timm"):
        models.check("timm:resnet18")


def test_timms_networks():
    pytest.importorskip("timm")
    net = models.build("timm:resnet18", num_classes=5, in_channels=1).eval()
    assert net(torch.zeros(1, 1, 64, 64)).shape == (1, 5)
    with pytest.raises(UnknownName, match=r"unknown timm model 'resnet19'.*others"):
        models.check("timm:resnet19")
    from fggp_deploy.models import timm_models

    known = timm_models.published("resnet18", "tv_in1k")
    assert (
        known.url == "https://huggingface.co/timm/resnet18.tv_in1k/resolve/main/model.safetensors"
    )
    assert (known.resize, known.crop) == (256, 224)
    with pytest.raises(UnknownName, match=r"weights of timm:resnet18 'v9'.*tv_in1k"):
        timm_models.published("resnet18", "v9")


FACTORIES = """
from torch import nn
from width import WIDTH


def make(num_classes, width=WIDTH):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, num_classes))


def both(**sizes):
    return nn.Linear(sizes["in_channels"], sizes["num_classes"])


def fails():
    raise RuntimeError("no such file")


def nothing():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "width.py").write_text("WIDTH = 12")
    (tmp_path / "factories.py").write_text(FACTORIES)
    return tmp_path / "factories.py"


def test_a_factory_gets_the_sizes_that_it_asks_for(own: Path):
    def make(name: str) -> torch.nn.Module:
        return models.build(f"{own}:{name}", num_classes=4, in_channels=3, trust_code=True)

    assert make("make")[1].weight.shape == (4, 12)
    assert make("both").weight.shape == (4, 3)
    for name, says in [("fails", "RuntimeError: no such file"), ("nothing", "must return an nn.M"),
                       ("missing", "has no function 'missing'")]:  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            make(name)


def test_code_runs_only_when_trusted(own: Path):
    own.write_text("raise SystemExit('this code ran')")
    for ask in (models.check, lambda n: models.build(n, num_classes=2, in_channels=3)):
        with pytest.raises(ConfigError, match="give --trust-code if you trust it"):
            ask(f"{own}:make")
    own.write_text("import nowhere")
    with pytest.raises(ConfigError, match=r"cannot be imported: ModuleNotFoundError.*'nowhere'"):
        models.check(f"{own}:make", trust_code=True)


def test_a_checkpoint_finds_its_file_again_and_ships_no_folder(own: Path, monkeypatch):
    monkeypatch.chdir(own.parent)
    run = own.parent / "runs" / "a"
    assert models.recorded("factories.py:make", run) == "../../factories.py:make"
    assert models.found_again("../../factories.py:make", run, None) == f"{own.resolve()}:make"
    assert models.without_folder(f"{own}:make") == "factories.py:make"
    assert models.in_a_path(f"{own}:make") == "factories.py-make"
    assert models.recorded("torchvision:vgg11", run) == "torchvision:vgg11"
    assert models.found_again("torchvision:vgg11", run, None) == "torchvision:vgg11"
    assert models.in_a_path("torchvision:vgg11") == "torchvision-vgg11"


def test_the_list_counts_without_building():
    rows = {r.name: r for r in listing("resnet*")} | {r.name: r for r in listing("*:vit_h_14")}
    assert {n for n in models.MODELS if n.startswith("resnet")} < {*rows}
    for name in ("resnet20", "resnet50"):
        net = models.build(name, num_classes=10, in_channels=3)
        assert rows[name].n_parameters == n_parameters(net)
        convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
        assert rows[name].n_prunable == sum(m.weight.numel() for m in convs[1:])
    huge = rows["torchvision:vit_h_14"]
    assert (huge.n_parameters, huge.input) == (632_045_800, "3×518×518")
    with pytest.raises(ConfigError, match=r"no network is called 'resmet\*'"):
        listing("resmet*")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"checkpoint": Path("a"), "weights": "DEFAULT"}, "both name the weights"),
        ({"model": "torchvision:alexnet"}, "needs --checkpoint or --weights"),
        ({"model": "resnet20", "weights": "DEFAULT"}, "give the weights of resnet20 as --check"),
        ({"new_head": True}, "`train --new-head` first"),
    ],
)
def test_options_that_do_not_go_together(options: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        prune(PruneConfig(**options), observer=Mock())


def images(size: int) -> Dataset:
    part = Split(np.zeros((1, size, size, 3), np.uint8), np.zeros(1, np.int64))
    preprocessing = Preprocessing(size, size, (0.5,) * 3, (1.0,) * 3)
    return Dataset("tiny", ("a", "b"), part, part, part, preprocessing)


def test_a_network_that_the_images_do_not_suit():
    config = TrainConfig(model="torchvision:alexnet")
    with pytest.raises(ConfigError, match=r"alexnet does not run on .* 3×32×32 \(RuntimeError"):
        new_model(config, images(32))


def test_a_factory_that_makes_no_classifier(own: Path):
    config = TrainConfig(model=f"{own}:make", trust_code=True)
    assert new_model(config, images(2))[1].out_features == 2
    own.write_text("from torch import nn\ndef make(): return nn.Conv2d(3, 2, 1)")
    with pytest.raises(ConfigError, match=r"2 images into \(2, 2, 2, 2\); a classifier"):
        new_model(config, images(2))
