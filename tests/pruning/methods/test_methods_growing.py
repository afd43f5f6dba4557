"""GReg-1, GReg-2 and whole filters: answers in the head, and laws."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import make, sgd, steps
from torch import nn

from fggp_deploy import MaskSet, Pruner
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.methods.greg import GREG_1, GREG_2
from fggp_deploy.pruning.methods.parts.filters import Channels, channels
from fggp_deploy.pruning.methods.parts.growing_regularization import GrowingReg, Growth
from fggp_deploy.pruning.pruner import prunable_parameters

PUSH = Growth(every=2, growth=0.25, ceiling=1.0)  # 8 iterations


def row() -> nn.Linear:
    net = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[4.0, -1.0, 2.0, -8.0]]))
    return net


def forces(method: GrowingReg, n: int, *, loss_gradient: float = 0.0) -> list[list[float] | None]:
    """What each of n steps adds to the gradient of a row of weights that nothing else moves."""
    net, added = row(), []
    pruner = Pruner(net, method, optimizer=None)
    for _ in range(n):
        net.weight.grad = torch.full_like(net.weight, loss_gradient)
        pruner.after_backward()
        added.append((net.weight.grad - loss_gradient).view(-1).tolist())
        pruner.after_step()
    return added


def test_the_penalty_grows_on_the_smaller_half_only():
    method = GrowingReg(0.5, PUSH, window=10, hold=2)
    assert method.length == 10
    added = forces(method, 10, loss_gradient=1.0)
    assert added[0] == [0, 0, 0, 0]  # λ 0
    assert added[1] == added[2] == [0, -0.25, 0.5, 0]  # 0.25·w
    assert added[7] == added[8] == [0, -1, 2, 0]  # the ceiling, held
    assert added[9] == [0, 0, 0, 0]  # they go


def test_greg_2_pushes_all_and_then_encourages_the_kept():
    together = Growth(every=1, growth=0.25, ceiling=0.5)
    push = Growth(every=1, growth=0.25, ceiling=1.0, start=0.5)
    method = GrowingReg(0.5, push, window=5, hold=1, together=together, encourage=0.125)
    added = forces(method, 5)
    assert method.picks_at == 2
    assert added[0] == [1, -0.25, 0.5, -2]  # 0.25·w
    assert added[1] == [-0.5, -0.5, 1, 1]  # 0.5·w, −0.125·w
    assert added[2] == [-0.5, -0.75, 1.5, 1]
    assert added[3] == [-0.5, -1, 2, 1]  # held
    assert added[4] == [0, 0, 0, 0]


@given(
    every=st.integers(1, 20), n=st.integers(1, 40), hold=st.integers(0, 50),
    window=st.integers(1, 200),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_any_window_goes_through_all_of_the_growth(every: int, n: int, hold: int, window: int):
    push = Growth(every=every, growth=1 / n, ceiling=1.0)
    method = GrowingReg(0.5, push, window=window, hold=hold)
    assert push.at(push.length) == pytest.approx(1.0)
    assert push.at(push.length - 1) < 1
    at = [method.iteration(step) for step in range(window + 1)]
    assert at[0] == 0
    assert at[-1] == method.length
    assert at[-2] < method.length
    values = [method.penalties(t)[0] for t in at]
    assert values == sorted(values)
    assert max(values) <= 1


def test_the_batch_norm_of_a_filter_is_pushed_with_it():
    net = make()
    method = GrowingReg(0.5, PUSH, window=10, hold=2, granularity="filter", input_shape=(1, 8, 8))
    pruner = Pruner(net, method, optimizer=None)
    for _ in range(5):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        pruner.after_backward()
        pruner.after_step()
    going = ~method.state_dict()["chosen"]["conv2.weight"].flatten(1).any(1)
    assert torch.equal(net.bn.weight.grad, 0.5 * net.bn.weight * going)
    assert torch.equal(net.conv2.bias.grad, 0.5 * net.conv2.bias * going)
    assert not net.fc.bias.grad.any()


def test_literal_iterations_are_steps_or_an_error():
    method = GrowingReg(0.5, PUSH, window=12, hold=2, literal=True)
    assert [method.iteration(s) for s in (1, 10, 12)] == [1, 10, 12]
    with pytest.raises(ConfigError, match="grows and holds for 10 iterations, but masks may"):
        GrowingReg(0.5, PUSH, window=9, hold=2, literal=True)


def test_the_defaults_are_the_papers():
    one, two = GREG_1.options(), GREG_2.options()
    assert (one.every, one.growth, one.ceiling, one.hold) == (10, 1e-4, 1.0, 10_000)
    assert (two.pick_growth, two.pick_ceiling, two.encourage) == (1e-5, 1e-2, 1e-4)
    assert Growth(one.every, one.growth, one.ceiling).length == 100_000
    assert Growth(two.every, two.pick_growth, two.pick_ceiling).length == 10_000
    push = Growth(two.every, two.growth, two.ceiling, start=two.pick_ceiling)
    assert push.length == 99_000


@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("together", [None, Growth(every=1, growth=0.05, ceiling=0.1)])
def test_the_set_is_chosen_once_and_shrinks_before_it_goes(granularity: str, together):
    net = make()
    method = GrowingReg(
        0.6, Growth(every=1, growth=0.1, ceiling=1.0, start=0.1 if together else 0.0),
        window=40, hold=5, together=together, granularity=granularity, input_shape=(1, 8, 8),
    )  # fmt: skip
    pruner = Pruner(net, method, optimizer=sgd(net))
    before = pruner.state.flat_weights()
    steps(net, pruner, 12)
    chosen = MaskSet(method.state_dict()["chosen"])
    assert pruner.masks.n_removed == 0
    with pytest.raises(ConfigError, match="must be removed at step 40, but only 0 are"):
        pruner.finish()
    steps(net, pruner, 27)
    gone = ~chosen.flatten()
    assert pruner.state.flat_weights()[gone].abs().mean() < before[gone].abs().mean() / 2
    steps(net, pruner, 3)
    assert MaskSet(method.state_dict()["chosen"]).digest() == chosen.digest()
    masks = pruner.finish()
    assert masks.digest() == chosen.digest()
    assert masks.n_removed == round(0.6 * masks.n_total)
    assert all(not p[~masks[n]].any() for n, p in pruner.state.params.items())


def test_layers_lose_the_same_share_where_that_is_asked_for():
    net = make()
    method = GrowingReg(0.5, PUSH, window=1, hold=0, allocation="uniform")
    pruner = Pruner(net, method, optimizer=None)
    pruner.after_backward()
    assert pruner.finish().removed_by_layer == {"conv2.weight": 144, "fc.weight": 20}


def test_filters_have_no_layers_of_their_own():
    with pytest.raises(ConfigError, match="granularity filter needs allocation global"):
        GrowingReg(0.5, PUSH, window=1, hold=0, granularity="filter", allocation="erk")


class Streams(nn.Module):
    """A sum, a padded shortcut, a depthwise layer, and channels side by side."""

    def __init__(self, *, prunable_stem: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.a = nn.Conv2d(2, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(2, 4, 1)
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.c = nn.Conv2d(4, 3, 1)
        self.d = nn.Conv2d(5, 6, 1)
        self.e = nn.Conv2d(6, 4, 1, groups=2)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = self.deep(F.relu(self.norm(self.a(x)) + self.b(x)))
        y = torch.cat([self.c(y), x], dim=1)
        y = self.d(y).relu() + F.pad(y, (0, 0, 0, 0, 0, 1))
        return self.fc(F.adaptive_avg_pool2d(self.e(y), 1).flatten(1))


def test_filters_of_one_channel_go_together():
    net = Streams()
    found = channels(net, prunable_parameters(net), (1, 4, 4))
    of = {n.removesuffix(".weight"): g.tolist() for n, g in found.of_filters.items()}
    assert of["a"] == of["b"] == of["deep"]
    assert len(set(of["a"])) == 4
    assert of["c"] == [-1, -1, -1]  # summed with what a grouped convolution reads
    assert of["d"] == of["c"] * 2
    assert of["e"] == [-1] * 4
    assert of["fc"] == [-1, -1]  # the output
    assert found.of_others["norm.bias"].tolist() == of["a"]
    assert found.of_others["b.bias"].tolist() == of["a"]
    assert found.of_others["stem.bias"].tolist() == [-1, -1]
    assert net.training


def test_pads_and_concatenations_move_channels():
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
            self.b, self.c = nn.Conv2d(2, 4, 1), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(self.stem(x))
            return self.c(torch.flatten(F.pad(y, (0, 0, 0, 0, 1, 1)) + self.b(y), 1))

    net = Moved()
    of = channels(net, prunable_parameters(net), (1, 2, 2)).of_filters
    assert of["b.weight"].tolist()[1:3] == of["a.weight"].tolist()
    assert len({*of["b.weight"].tolist()} - {-1}) == 4


def test_what_is_not_understood_keeps_its_channels():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 1)
            self.b, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.softmax(self.a(self.stem(x)), 1)
            return self.fc(self.b(y).mean((2, 3)))

    net = Odd()
    of = channels(net, prunable_parameters(net), (1, 2, 2)).of_filters
    assert of["a.weight"].tolist() == [-1] * 4
    assert sorted(of["b.weight"].tolist()) == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="no filter of this network can be removed"):
        channels(net, prunable_parameters(net, keep_dense=["b.*"]), (1, 2, 2))


def test_the_smallest_groups_go_and_one_in_part():
    masks = MaskSet({"a": torch.ones(3, 2, dtype=torch.bool), "b": torch.ones(2, 1).bool()})
    weights = torch.tensor([3.0, 4, 1, 2, 5, 6, 0.1, 0.2])  # a: 3.5 1.5 5.5, b: stays
    found = Channels({"a": torch.tensor([0, 1, 2]), "b": torch.tensor([-1, -1])}, {}, 3)

    def kept(n: int) -> list[int]:
        return found.without_smallest(masks, weights, n)["a"].int().reshape(-1).tolist()

    assert kept(2) == [1, 1, 0, 0, 1, 1]
    assert kept(3) == [0, 1, 0, 0, 1, 1]
    assert kept(4) == [0, 0, 0, 0, 1, 1]
    with pytest.raises(
        ConfigError,
        match=r"of the 8 prunable weights .* hold only 4\. .* Give a target below 0\.5000",
    ):
        kept(5)  # the largest filter of a layer stays


def test_a_filter_that_is_gone_is_as_if_it_had_never_been():
    net = make()
    method = GrowingReg(0.5, PUSH, window=2, hold=0, granularity="filter", input_shape=(1, 8, 8))
    pruner = Pruner(net, method, optimizer=sgd(net))
    steps(net, pruner, 4)
    masks = pruner.finish()
    dead = ~masks["conv2.weight"].flatten(1).any(1)
    assert int(dead.sum()) == 4
    for p in (net.conv2.bias, net.bn.weight, net.bn.bias):
        assert not p[dead].any()
        assert p[~dead].all()
    small = copy.deepcopy(net).eval()
    alive = (~dead).nonzero().squeeze(1)
    small.conv2 = nn.Conv2d(4, len(alive), 3)
    small.bn, small.fc = nn.BatchNorm2d(len(alive)).eval(), nn.Linear(len(alive), 5)
    with torch.no_grad():
        small.conv2.weight.copy_(net.conv2.weight[alive])
        small.conv2.bias.copy_(net.conv2.bias[alive])
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(small.bn, name).copy_(getattr(net.bn, name)[alive])
        small.fc.weight.copy_(net.fc.weight[:, alive])
        small.fc.bias.copy_(net.fc.bias)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(small(x), net.eval()(x))
