"""Pruning without training: the three rules, the re-fit's law, and layers as linear maps."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fggp_deploy import Pruner
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.methods.parts.calibration import Gram, by_group, gram, in_order, windows
from fggp_deploy.pruning.methods.parts.one_shot import LayerwiseOneShot, refresh_batch_norms_
from fggp_deploy.pruning.methods.parts.ridge import refit
from fggp_deploy.pruning.methods.second_order import SecondOrder
from fggp_deploy.pruning.methods.wanda import wanda


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moments(x: Tensor, w: Tensor) -> Gram:
    """Of inputs x [n, K] and a dense layer w [outputs, K]."""
    x, y = x.double()[None], (x.double() @ w.double().T)[None]
    return Gram(x.transpose(1, 2) @ x, x.transpose(1, 2) @ y, (y * y).sum(1))


def test_wanda_takes_as_many_of_each_output_by_weight_times_input():
    x = torch.tensor([[3.0, 1.0, 0.1], [4.0, 0.0, 0.0]])  # norms 5, 1, .1
    w = torch.tensor([[1.0, 4.0, 9.0], [2.0, -20.0, 30.0]])  # 5 4 .9 and 10 20 3
    kept, same = wanda(w[None], moments(x, w), 3)
    assert kept.tolist() == [[[True, False, False], [True, True, False]]]
    assert same is not None
    assert torch.equal(same[0], w)


def test_second_order_with_independent_inputs_is_weight_times_input():
    x = torch.diag(torch.tensor([5.0, 1.0, 0.1, 1.0]))
    w = torch.tensor([[1.0, 4.0, 9.0, 6.0], [2.0, -7.0, 30.0, 8.0]])
    kept, new = SecondOrder(damping=1e-12)(w[None], moments(x, w), 3)
    # |w|·‖x‖: 5 4 .9 6 and 10 7 3 8; the smallest three of all outputs
    assert kept[0].tolist() == [[True, False, False, True], [True, True, False, True]]
    assert torch.allclose(new[0], w * kept[0], atol=1e-5)


def test_second_order_lets_a_twin_take_over():
    x = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])  # the inputs are one
    w = torch.tensor([[1.0, 2.0]])
    kept, new = SecondOrder(damping=1e-9)(w[None], moments(x, w), 1)
    assert kept.tolist() == [[[False, True]]]  # its weight can go to the later one
    assert torch.allclose(new, torch.tensor([[[0.0, 3.0]]]), atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
def test_second_order_drops_first_what_multiplies_an_input_that_is_always_zero(scale: float):
    x = scale * torch.randn(30, 8, generator=seeded())
    x[:, [2, 5]] = 0
    w = torch.randn(4, 8, generator=seeded(1))
    kept, new = SecondOrder()(w[None], moments(x, w), 8)
    assert (~kept[0]).nonzero()[:, 1].tolist() == [2, 5] * 4
    assert torch.equal(new[0], w * kept[0])
    some, same = SecondOrder()(w[None], moments(x, w), 3)
    assert torch.equal(same[0], w * some[0])  # those that stay keep their weight
    assert not bool((~some[0])[:, [0, 1, 3, 4, 6, 7]].any())


@pytest.mark.parametrize("block", [1, 3, 128])
@pytest.mark.parametrize("n_drop", [0, 1, 17, 40])
def test_second_order_drops_exactly_that_many(block: int, n_drop: int):
    w = torch.randn(2, 4, 5, generator=seeded())
    x = torch.randn(2, 30, 5, generator=seeded(1)).double()
    xx = x.transpose(1, 2) @ x
    xy = xx @ w.double().transpose(1, 2)
    kept, new = SecondOrder(block)(w, Gram(xx, xy, torch.zeros(2, 4)), n_drop)
    assert int((~kept).sum()) == n_drop
    assert not new[~kept].any()


def test_a_refit_in_the_head():
    # y = 2·a + b with b = a: a alone can say it, as 3·a
    x, w = torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.tensor([[2.0, 1.0]])
    kept = torch.tensor([[[True, False]]])
    assert torch.allclose(
        refit(w[None], kept, moments(x, w), ridge=1e-12), torch.tensor([[[3.0, 0.0]]])
    )
    # with λ = the mean of a² = 5: ŵ = 15 / (5 + 5)
    assert torch.allclose(
        refit(w[None], kept, moments(x, w), ridge=1.0), torch.tensor([[[2.0, 0.0]]])
    ), "1.5 would be worse than 2 on the data, so that 2 stays"


@pytest.mark.parametrize("ridge", [1e-6, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_refit_never_raises_the_error_and_solves_the_normal_equations(ridge: float, seed: int):
    g = seeded(seed)
    w = torch.randn(6, 12, generator=g)
    x = torch.randn(40, 12, generator=g) @ torch.randn(12, 12, generator=g)
    seen = x + 0.3 * torch.randn(40, 12, generator=g)  # what layers before have left of it
    kept = torch.rand(1, 6, 12, generator=g) < 0.4
    kept[0, 0] = False  # an output that has nothing left
    y = x.double() @ w.double().T
    a = seen.double()
    m = Gram((a.T @ a)[None], (a.T @ y)[None], (y * y).sum(0)[None])
    new = refit(w[None], kept, m, ridge=ridge)[0].double()

    def errors(v: Tensor) -> Tensor:
        return ((a @ v.double().T - y) ** 2).sum(0)

    before, after = errors(w * kept[0]), errors(new)
    assert bool((after <= before * (1 + 1e-9)).all())
    assert not new[~kept[0]].any()
    damping = ridge * float(m.inputs.diagonal(dim1=1, dim2=2).mean())
    for i in range(6):
        at = kept[0, i]
        sub = m.inputs[0][at][:, at] + damping * torch.eye(int(at.sum())).double()
        exact = torch.zeros(12).double()
        exact[at] = torch.linalg.solve(sub, m.cross[0, at, i])
        if errors(exact[None].expand(6, 12))[i] < before[i] * (1 - 1e-6):
            assert torch.allclose(new[i], exact, rtol=1e-3, atol=1e-4)


LAYERS = {
    "linear": (nn.Linear(6, 4), (3, 6)),
    "linear of sequences": (nn.Linear(6, 4), (3, 5, 6)),
    "conv": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 6)),
    "strided, dilated, grouped": (
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=2, groups=2, padding=(1, 2)), (2, 4, 9, 8)
    ),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5)),
    "same": (nn.Conv2d(3, 5, (2, 3), padding="same"), (2, 3, 6, 6)),
    "reflected": (nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (2, 3, 6, 6)),
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_windows_times_its_weight(name: str):
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=seeded())
    with torch.no_grad():
        out = layer(x) - (
            layer.bias if isinstance(layer, nn.Linear)
            else layer.bias.view(-1, *[1] * (len(shape) - 2))
        )  # fmt: skip
        mine = windows(layer, x) @ by_group(layer, layer.weight).transpose(1, 2)  # [g, n·pos, out]
    axis = -1 if isinstance(layer, nn.Linear) else 1
    flat = out.movedim(axis, -1).reshape(-1, out.shape[axis])
    joined = mine.permute(1, 0, 2).reshape(flat.shape)
    assert torch.allclose(flat, joined, atol=1e-5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 8, 3)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, groups=2, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 5)
        self.fc2 = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv2(F.relu(self.conv1(x)))))
        return self.fc2(F.relu(self.fc(x.mean((2, 3)))))


def trained() -> Net:
    torch.manual_seed(0)
    net = Net()
    refresh_batch_norms_(net, images())
    return net.eval()


def images() -> list[tuple[Tensor, Tensor]]:
    g = seeded()
    return [(torch.randn(32, 2, 9, 9, generator=g), torch.zeros(32).long()) for _ in range(3)]


METHODS = {
    "magnitude": {"allocation": "global"},
    "magnitude, erk": {"allocation": "erk"},
    "wanda": {"rule": wanda},
    "second order": {"rule": SecondOrder()},
}


@pytest.mark.parametrize("name", METHODS)
def test_counts_are_exact_and_the_refit_brings_the_outputs_nearer(name: str):
    dense, distances = trained(), []
    x = torch.cat([x for x, _ in images()])
    for ridge in (0.0, 0.001):
        net = trained()
        method = LayerwiseOneShot(0.6, images, ridge=ridge, refresh=False, **METHODS[name])
        masks = Pruner(net, method, optimizer=None).finish()
        assert masks.n_removed == round(0.6 * masks.n_total)
        assert all(not net.get_parameter(n)[~m].any() for n, m in masks.items())
        assert not net.training
        with torch.no_grad():
            distances.append(float((net(x) - dense(x)).norm()))
    assert distances[1] < distances[0]


@pytest.mark.parametrize(
    ("allocation", "first", "second"),
    [
        ("global", [[False, True], [True, True]], [[False, False], [False, True]]),
        ("uniform", [[False, True], [True, False]], [[False, False], [True, True]]),
    ],
)
def test_magnitude_of_two_layers(allocation: str, first: list, second: list):
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    w = [torch.tensor([[1.0, -4.0], [7.0, 3.0]]), torch.tensor([[0.2, -0.1], [0.3, 6.0]])]
    net.load_state_dict({"0.weight": w[0], "1.weight": w[1]})
    method = LayerwiseOneShot(0.5, images, allocation=allocation, ridge=0, refresh=False)
    masks = Pruner(net, method, optimizer=None, min_layer_density=0).masks
    assert masks["0.weight"].tolist() == first
    assert masks["1.weight"].tolist() == second
    assert all(torch.equal(net[i].weight, w[i] * masks[f"{i}.weight"]) for i in (0, 1))


def test_magnitude_with_a_refit_lets_a_twin_take_over():
    net = nn.Linear(2, 1, bias=False)
    net.load_state_dict({"weight": torch.tensor([[1.0, 2.0]])})
    data = [(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.zeros(2))]
    pruner = Pruner(net, LayerwiseOneShot(0.5, lambda: data, ridge=1e-7), optimizer=None)
    assert pruner.masks["weight"].tolist() == [[False, True]]
    assert torch.allclose(net.weight, torch.tensor([[0.0, 3.0]]), atol=1e-4)


def test_each_layers_error_is_no_larger_with_the_refit():
    net, dense = trained(), trained()
    pruner = Pruner(net, LayerwiseOneShot(0.6, images, ridge=0.0, refresh=False), optimizer=None)
    for name, (layer, *_) in in_order(pruner.state, images()):
        other = dict(dense.named_modules())[name.removesuffix(".weight")]
        m = gram(layer, net, other, dense, images())
        weight = by_group(layer, layer.weight.detach())
        kept = by_group(layer, pruner.masks[name])
        assert bool((m.error(refit(weight, kept, m, ridge=0.01)) <= m.error(weight)).all())


def test_statistics_are_those_of_the_images():
    net = trained()
    LayerwiseOneShot(0.6, images).start(
        Pruner(net, LayerwiseOneShot(0.0, images), optimizer=None).state
    )
    again = copy.deepcopy(net)
    refresh_batch_norms_(again, images())
    assert torch.allclose(net.bn.running_mean, again.bn.running_mean, atol=1e-6)
    assert torch.allclose(net.bn.running_var, again.bn.running_var, atol=1e-6)


class Hidden(nn.Module):
    """Attention calls no module of its own weights; a head that trains alone is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc, self.aux = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        return self.fc(self.attention(x, x, x, need_weights=False)[0].mean(1))


HIDDEN = ("attention.in_proj_weight", "attention.out_proj.weight", "aux.weight")


def tokens() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(4, 8, 3, 3, generator=seeded()), torch.zeros(4).long())]


@pytest.mark.parametrize("name", METHODS)
def test_weights_that_no_called_module_uses_are_named(name: str):
    says = " and ".join(f"the module of {n} is not called" for n in HIDDEN).replace(" and", ",")
    says += "; give " + " ".join(f"--keep-dense {n}" for n in HIDDEN)
    with pytest.raises(ConfigError, match=says):
        Pruner(Hidden(), LayerwiseOneShot(0.5, tokens, **METHODS[name]), optimizer=None)
    method = LayerwiseOneShot(0.5, tokens, **METHODS[name])
    masks = Pruner(Hidden(), method, optimizer=None, keep_dense=HIDDEN).masks
    assert masks.removed_by_layer == {"fc.weight": 20}


class Same(nn.Conv2d):
    """Pads by itself, as timm's Conv2dSame does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class Standardised(nn.Conv2d):
    """As timm's StdConv2d: each output's weights have mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, w / w.std((1, 2, 3), keepdim=True), self.bias)


class Faithful(nn.Conv2d):
    """A subclass that computes the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


@pytest.mark.parametrize("layer", [Same, Standardised])
@pytest.mark.parametrize("name", METHODS)
def test_layers_with_a_forward_of_their_own_are_named(layer: type, name: str):
    net = nn.Sequential(layer(8, 6, 3), nn.Flatten(), nn.LazyLinear(5))
    net(tokens()[0][0])
    with pytest.raises(ConfigError, match=f"the {layer.__name__} of 0.weight computes something"):
        Pruner(
            net, LayerwiseOneShot(0.5, tokens, **METHODS[name]), optimizer=None, prune_first=True
        )
    again = LayerwiseOneShot(0.5, tokens, ridge=0)
    assert Pruner(net, again, optimizer=None, prune_first=True).masks.n_removed > 0


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_compute_what_their_class_does_are_taken(name: str):
    layer, shape = LAYERS[name]
    data = [(100 * torch.randn(shape, generator=seeded()), torch.zeros(1))]
    for dtype in (torch.float32, torch.bfloat16):
        net = copy.deepcopy(layer).to(dtype)
        state = Pruner(net, LayerwiseOneShot(0.0, list), optimizer=None, prune_first=True).state
        assert in_order(state, [(x.to(dtype), y) for x, y in data]) == [("weight", [net])]


def test_a_subclass_that_computes_the_same_is_pruned():
    net = nn.Sequential(Faithful(8, 6, 3), nn.Flatten(), nn.Linear(6, 5))
    pruner = Pruner(
        net, LayerwiseOneShot(0.5, tokens, rule=wanda), optimizer=None, prune_first=True
    )
    assert pruner.masks.n_removed == 231


def test_magnitude_without_a_refit_takes_any_layer():
    net = nn.Sequential(nn.ConvTranspose2d(8, 3, 2), Hidden())
    method = LayerwiseOneShot(0.5, tokens, ridge=0, refresh=False, allocation="uniform")
    masks = Pruner(net, method, optimizer=None, prune_first=True).masks
    assert masks.removed_by_layer == {
        "0.weight": 48, "1.attention.in_proj_weight": 96, "1.attention.out_proj.weight": 32,
        "1.fc.weight": 20, "1.aux.weight": 20,
    }  # fmt: skip


def test_layers_that_are_no_plain_linear_maps_are_named():
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ConvTranspose2d(3, 3, 2))
    with pytest.raises(ConfigError, match=r"1\.weight belongs to a ConvTranspose2d; give --keep-d"):
        Pruner(net, LayerwiseOneShot(0.5, images), optimizer=None)
    with pytest.raises(ConfigError, match="needs calibration images"):
        Pruner(Net(), LayerwiseOneShot(0.5, list), optimizer=None)
    with pytest.raises(ConfigError, match="needs an allocation that fixes"):
        LayerwiseOneShot(0.5, images, rule=wanda, allocation="global")
