"""export_model: networks of one's own, wrapped, in half precision, and those that cannot be."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import Attention
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fggp_deploy import FGGP, MaskSet, Pruner, export_model
from fggp_deploy.data import Preprocessing
from fggp_deploy.errors import ConfigError, FggpWarning
from fggp_deploy.format.model import SparseModel
from fggp_deploy.pruning.masks import random_masks
from fggp_deploy.pruning.pruner import weight_parameters
from fggp_deploy.pruning.schedules import OneShot

pytestmark = pytest.mark.usefixtures("shapes_in_process")

ABOUT: dict[str, Any] = {
    "preprocessing": Preprocessing(8, 8, (0.0,) * 3, (1.0,) * 3),
    "classes": [str(i) for i in range(10)],
}


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip


def masks_of(net: nn.Module) -> MaskSet:
    params = weight_parameters(net)
    keep = {n: p.numel() // 10 for n, p in params.items()}
    return random_masks(params, keep, generator=torch.Generator().manual_seed(0))


def sparse() -> nn.Sequential:
    net = small()
    masks_of(net).apply_(net)
    return net


def compiled_inside() -> nn.Module:
    net = sparse()
    return nn.Sequential(torch.compile(net[:4], backend="eager"), *net[4:])


FORMS: dict[str, Callable[[], nn.Module]] = {
    "compiled": lambda: torch.compile(sparse(), backend="eager"),
    "compiled in place": lambda: in_place(sparse()),
    "compiled inside": compiled_inside,
    "data parallel": lambda: nn.DataParallel(sparse()),
    "averaged": lambda: AveragedModel(sparse()),
    "half": lambda: sparse().half(),
    "bfloat16": lambda: sparse().bfloat16(),
    "training": lambda: sparse().train(),
}


def in_place(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


@pytest.mark.parametrize("form", FORMS)
def test_a_network_in_any_form_is_exported(form: str, tmp_path: Path):
    model = FORMS[form]()
    before = {n: (t.dtype, t.clone()) for n, t in model.state_dict().items()}
    training = model.training
    with warnings.catch_warnings():
        warnings.simplefilter("error", FggpWarning)
        file = export_model(model, tmp_path / "m.onnx", **ABOUT)
    layers = SparseModel.open(file).layers
    assert len(layers) == 3
    assert all(abs(layer.sparsity - 0.9) < 0.01 for layer in layers)
    after = model.state_dict()
    assert all(after[n].dtype == t and torch.equal(after[n], v) for n, (t, v) in before.items())
    assert model.training == training


class Heads(nn.Module):
    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.form = small(), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.net(x))


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (lambda x: (x, x), "2 outputs"),
        (lambda x: {"out": x, "aux": x}, "a dict of out, aux"),
        (lambda x: x[:, :4], r"\(2, 4\)"),
        (lambda x: x.mean(), r"\(\)"),
    ],
)
def test_what_is_no_classifier_is_told_what_it_gives(form: Any, says: str, tmp_path: Path):
    with pytest.raises(
        ConfigError, match=rf"Heads turns 2 images into {says}; .* wrap it in an nn"
    ):
        export_model(Heads(form), tmp_path / "m.onnx", **ABOUT)


def test_what_does_not_run_on_the_images_says_why(tmp_path: Path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(7, 10))
    with pytest.raises(ConfigError, match=r"Sequential does not run on images, 3×8×8 \(RuntimeErr"):
        export_model(net, tmp_path / "m.onnx", **ABOUT)
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(ConfigError, match=r"1\.weight has no shape yet"):
        export_model(lazy, tmp_path / "m.onnx", **ABOUT)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return y if float(y.sum()) > 0 else y + 1


def test_what_cannot_be_traced_is_one_plain_line(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"^torch\.onnx cannot export this network \(") as error:
        export_model(Untraceable(), tmp_path / "m.onnx", **ABOUT)
    assert "\x1b" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_copy_without_the_zeros_is_told_of(tmp_path: Path):
    net = small()
    ema = AveragedModel(net)
    masks = masks_of(net)
    masks.apply_(net)
    with pytest.warns(FggpWarning, match=r"almost no zeros.*also=\[…\].*apply_\(model\)"):
        export_model(ema, tmp_path / "m.onnx", **ABOUT)
    masks.apply_(ema)  # the remedy
    with warnings.catch_warnings():
        warnings.simplefilter("error", FggpWarning)
        export_model(ema, tmp_path / "m.onnx", **ABOUT)


@pytest.mark.filterwarnings("ignore:update at step")
def test_pruned_attention_is_packed(tmp_path: Path):
    net = Attention()
    ema = copy.deepcopy(net)
    pruner = Pruner(net, FGGP(), OneShot(0.8), optimizer=None, also=[ema])
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    F.cross_entropy(net(x), torch.arange(8)).backward()
    pruner.after_backward()
    pruner.after_step()
    masks = pruner.finish()
    file = SparseModel.open(export_model(ema, tmp_path / "m.onnx", **ABOUT))
    packed = {layer.name: layer for layer in file.layers}
    share = 1 - masks["attention.in_proj_weight"].float().mean()
    assert packed["attention.in_proj_weight"].sparsity == pytest.approx(float(share))
    assert packed["attention.in_proj_weight"].encoding != "dense"
