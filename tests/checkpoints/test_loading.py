"""A checkpoint that fits a network is loaded; an error names the network that another fits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fggp_deploy import models
from fggp_deploy.errors import CheckpointError
from fggp_deploy.models.loading import load_into, translate
from fggp_deploy.models.search import fitting, without_memory

W = torch.ones(1, 1)


def build(name: str = "resnet20", num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    return models.build(name, num_classes=num_classes, in_channels=in_channels)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(build().state_dict())


def renamed(state: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {n.replace(old, new): t for n, t in state.items()}


def test_equal_names_need_no_translation(state: dict):
    net = build()
    assert load_into(net, state, what="m.pt") == {}
    assert torch.equal(net.layer3[2].conv2.weight, state["layer3.2.conv2.weight"])


def test_a_head_and_a_prefix_of_other_names(state: dict):
    theirs = {f"encoder.{n}": t for n, t in renamed(state, "fc.", "linear.").items()}
    net = build()
    names = load_into(net, theirs, what="m.pt")
    assert names["fc.weight"] == "encoder.linear.weight"
    assert names["conv1.weight"] == "encoder.conv1.weight"
    assert torch.equal(net.fc.weight, state["fc.weight"])


def test_shortcuts_of_other_names():
    theirs = renamed(dict(build("resnet18").state_dict()), "shortcut.", "downsample.")
    net = build("resnet18")
    names = load_into(net, theirs, what="m.pt")
    assert names["layer2.0.shortcut.0.weight"] == "layer2.0.downsample.0.weight"
    assert torch.equal(net.layer2[0].shortcut[0].weight, theirs["layer2.0.downsample.0.weight"])


def test_sparsemls_own_resnet_is_torchvisions():
    net = without_memory("torchvision:resnet18", num_classes=10, in_channels=3)
    theirs = {n: torch.rand(t.shape) for n, t in net.state_dict().items()}
    for i in range(4):
        theirs = renamed(theirs, f"layer{i + 1}.", f"sections.{i}.")
    for old, new in (("downsample.0", "identity.conv"), ("downsample.1", "identity.bn"),
                     ("fc.", "classifier.fc.")):  # fmt: skip
        theirs = renamed(theirs, old, new)
    theirs |= {f"input.{n.replace('1', '', 1)}": theirs.pop(n) for n in list(theirs)
               if n.startswith(("conv1.", "bn1."))}  # fmt: skip
    assert {"input.conv.weight", "sections.1.0.identity.bn.bias", "classifier.fc.bias"} <= {*theirs}
    net = build("torchvision:resnet18")
    names = load_into(net, theirs, what="m.pt")
    assert torch.equal(net.conv1.weight, theirs["input.conv.weight"])
    assert names["layer2.0.downsample.1.bias"] == "sections.1.0.identity.bn.bias"


def test_auxiliary_classifiers_are_left_out_of_googlenet_alone():
    own = without_memory("torchvision:googlenet", num_classes=10, in_channels=3).state_dict()
    assert translate({"aux1.fc1.weight": W, "fc.weight": W}, own)["aux1.fc1.weight"] is None
    own = build().state_dict()
    assert translate({"aux1.fc1.weight": W}, own) == {"aux1.fc1.weight": "aux1.fc1.weight"}


def test_old_files_have_no_num_batches_tracked(state: dict):
    load_into(build(), {n: t for n, t in state.items() if "num_batches" not in n}, what="m.pt")


def says(text: str, name: str, state: dict, **sizes: int) -> None:
    with pytest.raises(CheckpointError, match=text):
        load_into(build(name, **sizes), state, what="m.pt")


def test_a_mismatch_names_keys_shapes_and_the_network_that_fits(state: dict):
    says(r"missing layer1\.3\.conv1\.weight.* and 57 more; unexpected none\. It fits --model "
         r"resnet20, with 10 classes and color images", "resnet32", state)  # fmt: skip
    says(r"unexpected conv1\.weight, bn1\.weight.*It fits --model resnet20", "vgg11", state)
    vgg = build("torchvision:squeezenet1_1", 1000).state_dict()
    says(r"It fits --model torchvision:squeezenet1_1, with 1000 classes", "resnet20", vgg)
    few = {n: t for n, t in state.items() if n != "layer2.1.conv1.weight"}
    says(r"missing layer2\.1\.conv1\.weight; unexpected none\. No network", "resnet20", few)


def test_another_number_of_classes_or_channels(state: dict):
    says(r"fc\.weight is \(10, 64\) in the checkpoint but \(100, 64\) in the network; fc\.bias.*"
         r"another number of classes.*--new-head", "resnet20", state, num_classes=100)  # fmt: skip
    says(r"conv1\.weight is \(16, 3, 3, 3\).*another number of channels", "resnet20", state,
         in_channels=1)  # fmt: skip


def test_several_networks_in_one_file(state: dict):
    both = {f"{p}.{n}": t for p in ("student", "teacher") for n, t in state.items()}
    says(r"under 'student\.' and 'teacher\.'.*save only that part", "resnet20", both)


def test_weights_that_are_no_numbers_of_ours(state: dict):
    says(r"fc\.weight holds torch\.int8.*quantized", "resnet20",
         state | {"fc.weight": state["fc.weight"].to(torch.int8)})  # fmt: skip


def test_a_new_head_leaves_only_the_head_fresh(state: dict):
    net = build(num_classes=7)
    fresh = net.fc.weight.clone()
    load_into(net, state, what="m.pt", new_head=True)
    assert torch.equal(net.fc.weight, fresh)
    assert torch.equal(net.conv1.weight, state["conv1.weight"])
    with pytest.raises(CheckpointError, match="another number of channels"):
        load_into(build(in_channels=1), state, what="m.pt", new_head=True)


def test_networks_of_ours_can_be_told_apart():
    def shapes(name: str) -> dict[str, Tensor]:
        return dict(without_memory(name, num_classes=12, in_channels=1).state_dict())

    seen = {tuple((n, tuple(t.shape)) for n, t in shapes(name).items()) for name in models.MODELS}
    assert len(seen) == len(models.MODELS)
    (fit,) = fitting(shapes("resnet44-b"), lambda state, own: {n: n for n in state})
    assert (fit.name, fit.num_classes, fit.in_channels) == ("resnet44-b", 12, 1)
