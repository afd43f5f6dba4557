"""Which weights are found and which are left out, in plain and in wrapped networks."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from loops import make, sgd, steps
from nets import Attention
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fggp_deploy import FGGP, Cubic, Pruner
from fggp_deploy.errors import ConfigError, FggpWarning
from fggp_deploy.models.probing import count_macs
from fggp_deploy.pruning.prunable import left_out, prunable_parameters, weight_parameters
from fggp_deploy.pruning.schedules import OneShot

PROJECTIONS = {
    None: {"attention.in_proj_weight": (48, 16)},
    8: {f"attention.{n}_proj_weight": (16, 16 if n == "q" else 8) for n in "qkv"},
}


@pytest.mark.parametrize("kdim", PROJECTIONS)
def test_attention_projections_are_pruned_and_counted(kdim: int | None):
    net = Attention(kdim)
    weights = weight_parameters(net)
    shapes = {n: tuple(p.shape) for n, p in weights.items()}
    assert shapes.items() >= (PROJECTIONS[kdim] | {"attention.out_proj.weight": (16, 16)}).items()
    assert not left_out(net)
    pruner = Pruner(net, FGGP(), Cubic(0.8, steps=2, updates=2, end=2), optimizer=None)
    g = torch.Generator().manual_seed(0)
    for _ in range(2):
        x = torch.randn(8, 3, 8, 8, generator=g)
        F.cross_entropy(net(x), torch.arange(8)).backward()
        pruner.after_backward()
        pruner.after_step()
    masks = pruner.finish()
    assert masks.n_removed == round(0.8 * masks.n_total)
    for name in PROJECTIONS[kdim]:
        assert masks.removed_by_layer[name] > 0
        assert not net.get_parameter(name)[~masks[name]].any()
    macs = count_macs(net, (3, 8, 8))
    assert macs.keys() == weights.keys()
    for name, (rows, columns) in PROJECTIONS[kdim].items():
        assert macs[name] == 4 * rows * columns  # 4 tokens
    assert macs["attention.out_proj.weight"] == 4 * 256


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.rnn = nn.LSTM(4, 8)
        self.words = nn.Embedding(5, 4)
        self.own = nn.Parameter(torch.ones(4, 4))
        self.norm = nn.LayerNorm((2, 4))
        self.scale = nn.Parameter(torch.ones(4))


def test_what_is_left_out_is_told_with_the_reason():
    net = Mixed()
    reasons = left_out(net)
    assert {n: r.split(":")[0] for n, r in reasons.items()} == {
        "own": "not of a convolution, linear or attention layer",
        "frozen.weight": "frozen",
        "rnn.weight_ih_l0": "of a recurrent layer",
        "rnn.weight_hh_l0": "of a recurrent layer",
        "words.weight": "an embedding, which is looked up and not multiplied",
        "norm.weight": "of a norm",
        "norm.bias": "of a norm",
    }
    with pytest.warns(
        FggpWarning, match=r"452 of the network's 468 weights.*rnn\.weight_hh_l0 \(2"
    ):
        pruner = Pruner(net, FGGP(), Cubic(0.5, steps=4), optimizer=None)
    assert pruner.left_out == reasons


REMEDIES: dict[str, Callable[[nn.Module], object]] = {
    "prune": lambda m: prune.l1_unstructured(m, "weight", amount=0.5),
    "old weight_norm": torch.nn.utils.weight_norm,
    "old spectral_norm": torch.nn.utils.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("how", REMEDIES)
def test_the_remedy_for_a_computed_weight_works(how: str):
    model = make()
    REMEDIES[how](model.fc)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model.eval()
    before = model(x)
    with pytest.raises(ConfigError, match=r"fc\.weight is not a parameter but computed") as error:
        Pruner(model, FGGP(), Cubic(0.5, steps=9), optimizer=sgd(model))
    (code,) = re.findall("`([^`]+)`", str(error.value))
    exec(code, {"torch": torch, "model": model})
    assert torch.allclose(model(x), before, atol=1e-6)
    pruner = Pruner(model, FGGP(), Cubic(0.9, steps=9), optimizer=sgd(model))
    assert pruner.masks.n_removed == (20 if how == "prune" else 0)


def test_a_computed_attention_weight_has_a_remedy_too():
    model = Attention()
    prune.l1_unstructured(model.attention, "in_proj_weight", amount=0.5)
    with pytest.raises(ConfigError, match=r"attention\.in_proj_weight is not a parameter") as error:
        weight_parameters(model)
    exec(re.findall("`([^`]+)`", str(error.value))[0], {"torch": torch, "model": model})
    assert "attention.in_proj_weight" in prunable_parameters(model)


def test_a_lazy_layer_wants_a_batch_first():
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(4))
    with pytest.raises(ConfigError, match=r"1\.weight has no shape yet.*pass one batch"):
        Pruner(net, FGGP(), Cubic(0.5, steps=9), optimizer=None)
    net(torch.zeros(2, 3, 2, 2))
    assert list(Pruner(net, FGGP(), Cubic(0.5, steps=9), optimizer=None).masks) == [
        "1.weight", "3.weight",
    ]  # fmt: skip


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": lambda m: torch.compile(m, backend="eager"),
    "data parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "both": lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
}


@pytest.mark.parametrize("how", WRAPPERS)
def test_a_wrapped_network_has_its_own_names(how: str):
    net = make()
    assert list(weight_parameters(WRAPPERS[how](net))) == list(weight_parameters(net))
    assert list(prunable_parameters(WRAPPERS[how](net))) == ["conv2.weight", "fc.weight"]
    pruner = Pruner(WRAPPERS[how](net), FGGP(), Cubic(0.5, steps=4), optimizer=None)
    assert pruner.state.model.__class__ is net.__class__


@pytest.mark.parametrize("first", ["average", "prune"])
def test_other_copies_get_the_zeros_too(first: str):
    net = make()
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    shadow = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimizer = sgd(net)
    pruner = Pruner(net, FGGP(), Cubic(0.8, steps=10), optimizer=optimizer, also=[ema, shadow])
    if first == "average":  # before the masks change, else after
        optimizer.register_step_post_hook(lambda *_: ema.update_parameters(net))
        steps(net, pruner, 10)
    else:
        steps(net, pruner, 10, lambda: ema.update_parameters(net))
    for name, mask in pruner.finish().items():
        for copy in (ema.module.get_parameter(name), shadow[name]):
            assert not copy[~mask].any()
            assert copy[mask].all()


def test_a_copy_of_another_network_is_refused():
    with pytest.raises(ConfigError, match=r"in `also` must have .* conv1\.weight is missing, not"):
        Pruner(make(), FGGP(), OneShot(0.5), optimizer=None, also=[nn.Linear(2, 2)])


def test_masks_are_applied_to_a_wrapped_copy():
    net = make()
    pruner = Pruner(net, FGGP(), Cubic(0.8, steps=5), optimizer=sgd(net))
    ema = AveragedModel(net)
    steps(net, pruner, 5)
    masks = pruner.finish()
    masks.apply_(ema)
    assert all(not ema.module.get_parameter(n)[~m].any() for n, m in masks.items())
    with pytest.raises(
        ConfigError, match=r"the network has no weight 'conv2\.weight', which the masks name"
    ):
        masks.apply_(nn.Linear(2, 2))
