"""Random masks, SNIP, GraSP and SynFlow: answers in the head, and laws."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from loops import batch, make, sgd
from torch import nn

from fggp_deploy import MaskSet, Pruner
from fggp_deploy.errors import ConfigError, LayerCollapse
from fggp_deploy.pruning.methods.grasp import GraSP
from fggp_deploy.pruning.methods.parts.at_start import AtStart, without_smallest
from fggp_deploy.pruning.methods.parts.gradients import mean_gradients
from fggp_deploy.pruning.methods.random_masks import RandomMasks
from fggp_deploy.pruning.methods.snip import SNIP
from fggp_deploy.pruning.methods.state import PruningState
from fggp_deploy.pruning.methods.synflow import SynFlow, absolute, synaptic_flow


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


METHODS = {
    "random": lambda target: RandomMasks(target, allocation="erk", generator=seeded()),
    "snip": lambda target: SNIP(target, lambda: [batch(0), batch(1)]),
    "grasp": lambda target: GraSP(target, lambda: [batch(0), batch(1)]),
    "synflow": lambda target: SynFlow(target, (1, 8, 8), rounds=20),
}


@pytest.mark.parametrize("name", METHODS)
def test_counts_are_exact_and_nothing_else_changes(name: str):
    net = make()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    torch.manual_seed(5)
    random = torch.get_rng_state()
    pruner = Pruner(net, METHODS[name](0.7), optimizer=sgd(net))
    assert pruner.masks.n_removed == round(0.7 * pruner.masks.n_total)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in net.parameters())
    for key, value in net.state_dict().items():
        kept = pruner.masks.get(key, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value, before[key] * kept)
    again = Pruner(make(), METHODS[name](0.7), optimizer=None)
    assert pruner.finish().digest() == again.masks.digest()


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_a_sparse_start_stays_sparse(name: str):
    net = make()
    with torch.no_grad():
        net.conv2.weight.view(-1)[:100] = 0
    pruner = Pruner(net, METHODS[name](0.7), optimizer=None)
    assert pruner.masks.n_removed == round(0.7 * pruner.masks.n_total)
    assert not pruner.masks["conv2.weight"].view(-1)[:100].any()
    with pytest.raises(ConfigError, match=r"already 70\.12% sparse, above the target 0\.2"):
        Pruner(net, METHODS[name](0.2), optimizer=None)


def test_a_method_that_misses_the_target_is_an_error():
    class Short(AtStart):
        def choose(self, state: PruningState, n_drop: int) -> MaskSet:
            return without_smallest(state.masks, state.flat_weights().abs(), n_drop - 1)

    with pytest.raises(ConfigError, match="Short removes 163 of 328 weights, but the"):
        Pruner(make(), Short(0.5), optimizer=None)


def test_random_masks_have_the_densities_of_their_allocation():
    net = make()  # conv2 4·8·9, fc 8·5
    uniform = RandomMasks(0.5, allocation="uniform", generator=seeded())
    assert Pruner(net, uniform, optimizer=None).masks.removed_by_layer == {
        "conv2.weight": 144, "fc.weight": 20,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("allocation", "n_drop", "by_layer"),
    [  # of 2·4 and 8·2 weights, ε·(2 + 4) and ε·(8 + 2) stay
        ("erk", 8, (2, 6)),  # ε = 1
        ("erk", 16, (5, 11)),  # ε = 1/2
        ("erk", 2, (0, 2)),  # ε = 22/16 would keep 8.25 of 8
        ("uniform", 12, (4, 8)),
        ("uniform", 8, (3, 5)),  # 2 2/3 and 5 1/3
    ],
)
def test_random_masks_of_two_layers(allocation: str, n_drop: int, by_layer: tuple[int, int]):
    net = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 8))
    masks = []
    for seed in (0, 0, 1):
        g = torch.Generator().manual_seed(seed)
        method = RandomMasks(n_drop / 24, allocation=allocation, generator=g)
        masks.append(Pruner(copy.deepcopy(net), method, optimizer=None).masks)
        assert tuple(masks[-1].removed_by_layer.values()) == by_layer
    assert masks[0].digest() == masks[1].digest() != masks[2].digest()


class Product(nn.Module):
    """Logits (a·x, 0): the cross-entropy with label 0 is log(1 + exp(−a·x))."""

    def __init__(self, *a: float) -> None:
        super().__init__()
        self.fc = nn.Linear(len(a), 1, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([a]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.fc(x)
        return torch.cat([z, torch.zeros_like(z)], 1)


def test_snip_keeps_the_largest_product_of_weight_and_gradient():
    # the gradient is a multiple of x, so that |g·w| goes as |x·w|: 3, 4, 1, 0.5
    data = [(torch.tensor([[3.0, 1.0, 0.5, 1.0]]), torch.tensor([0]))]
    pruner = Pruner(Product(1.0, 4.0, -2.0, 0.5), SNIP(0.5, lambda: data), optimizer=None)
    assert pruner.masks["fc.weight"].tolist() == [[True, True, False, False]]


def test_grasp_drops_what_the_gradient_flow_misses_least():
    # z = w·x = 1, g = −σ(−z)·x, H = σ'(z)·x·xᵀ, so that w·Hg goes as −w·x: −3, 1, 2, −1
    # and the largest −w·Hg, those of 0 and 3, go
    data = [(torch.tensor([[3.0, 1.0, 2.0, 1.0]]), torch.tensor([0]))]
    net = Product(1.0, -1.0, -1.0, 1.0)
    pruner = Pruner(net, GraSP(0.5, lambda: data, temperature=1.0), optimizer=None)
    assert pruner.masks["fc.weight"].tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("seed", range(3))
def test_grasp_of_a_sparse_network_is_that_of_the_network_without_the_removed(seed: int):
    torch.manual_seed(seed)
    whole = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(40, 8), torch.randint(0, 3, (40,))
    small = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    small.load_state_dict(whole.state_dict() | {"0.weight": whole[0].weight[:, :5]})
    with torch.no_grad():
        whole[0].weight[:, 5:] = 0
    chosen = []
    for net, images in ((whole, x), (small, x[:, :5])):
        method = GraSP(0.5, lambda seen=images: [(seen, y)])
        state = Pruner(net, method, optimizer=None, begin=False).state
        chosen.append(method.choose(state, 20))
    for name, mask in chosen[1].items():
        assert torch.equal(chosen[0][name][:, : mask.shape[1]], mask)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)  # whose gradient comes through the attention
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        return self.fc(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_grasp_takes_networks_with_fused_attention():
    data = [(torch.randn(4, 7, 3, generator=seeded()), torch.tensor([0, 1, 2, 3]))]
    masks = Pruner(Attending(), GraSP(0.5, lambda: data), optimizer=None).masks
    assert masks.n_removed == round(0.5 * (24 + 3 * 64 + 64 + 40))  # embed, q k v, out, fc


def test_the_hessian_product_is_the_derivative_of_the_gradient():
    net = make().double()
    data = [(x.double(), y) for x, y in (batch(0), batch(1))]
    state = Pruner(net, SynFlow(0.0, (1, 8, 8)), optimizer=None).state
    along = {n: torch.randn(p.shape, generator=seeded()).double() for n, p in state.params.items()}
    product = mean_gradients(state, data, along=along)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for n, p in state.params.items():
                p.add_(along[n], alpha=sign * 1e-5)
        ends.append(mean_gradients(state, data))
        with torch.no_grad():
            for n, p in state.params.items():
                p.sub_(along[n], alpha=sign * 1e-5)
    for n in product:
        difference = (ends[0][n] - ends[1][n]) / 2e-5
        assert torch.allclose(product[n], difference, atol=1e-6)


def test_no_image_is_an_error():
    with pytest.raises(ConfigError, match="scoring weights by gradients needs images"):
        Pruner(make(), SNIP(0.5, list), optimizer=None)


class Blind(nn.Module):
    """Its second layer sees nothing, so that it has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.b(0 * x)


def test_a_layer_that_would_vanish_is_an_error():
    data = [(torch.randn(4, 3, generator=seeded()), torch.tensor([0, 1, 2, 0]))]
    with pytest.raises(LayerCollapse, match=r"the start would remove every weight of b\.weight"):
        Pruner(Blind(), SNIP(0.5, lambda: data), optimizer=None, min_layer_density=0)


def two_layers() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        net[1].weight.copy_(torch.tensor([[-5.0, 1.0]]))
    return net


def test_synflow_of_two_layers():
    scores = synaptic_flow(absolute(two_layers()), ["0.weight", "1.weight"], (2,))
    # R = 5·(1 + 2) + 1·(3 + 4)
    assert scores["0.weight"].tolist() == [[5.0, 10.0], [3.0, 4.0]]
    assert scores["1.weight"].tolist() == [[15.0, 7.0]]
    method = SynFlow(0.5, (2,), rounds=1)
    pruner = Pruner(two_layers(), method, optimizer=None, min_layer_density=0)
    assert pruner.masks["0.weight"].tolist() == [[False, True], [False, False]]
    assert pruner.masks["1.weight"].tolist() == [[True, True]]
    # one by one: 3 goes, then of two with a flow of 4 the first, and what follows has none left
    rounds = Pruner(two_layers(), SynFlow(0.5, (2,), rounds=30), optimizer=None)
    assert rounds.masks["0.weight"].tolist() == [[True, True], [False, False]]
    assert rounds.masks["1.weight"].tolist() == [[True, False]]


class Chain(nn.Module):
    """Convolutions, batch norms and pooling without any bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, groups=2, bias=False)
        self.fc = nn.Linear(8, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.conv1(x)))
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


@pytest.mark.parametrize("seed", range(4))
def test_the_synaptic_flow_is_conserved_from_layer_to_layer(seed: int):
    torch.manual_seed(seed)
    net = Chain()
    with torch.no_grad():
        net.bn.running_mean.normal_()
        net.bn.running_var.uniform_(0.5, 2)
        net.bn.weight.normal_()
    linear = absolute(net)
    scores = synaptic_flow(linear, ["conv1.weight", "conv2.weight", "fc.weight"], (2, 9, 9))
    out = linear(torch.ones(1, 2, 9, 9, dtype=torch.float64)).sum()
    for score in scores.values():
        assert torch.allclose(score.sum(), out, rtol=1e-12)


def test_synflow_empties_no_layer_where_one_round_does():
    def net() -> nn.Module:
        torch.manual_seed(0)
        sizes = [(30, 200), (200, 200), (200, 5)]
        return nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in sizes])

    def pruner(rounds: int) -> Pruner:
        method = SynFlow(0.999, (30,), rounds=rounds)
        return Pruner(net(), method, optimizer=None, min_layer_density=0)

    masks = pruner(100).masks
    assert masks.empty_layers() == []
    assert masks.n_removed == round(0.999 * masks.n_total)
    with pytest.raises(LayerCollapse):
        pruner(1)
