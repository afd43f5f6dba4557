"""No layer is emptied: the least number of weights that each keeps, in every global method."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import batch, make, sgd, steps
from torch import Tensor, nn

from fggp_deploy import FGGP, Cubic, Magnitude, Pruner
from fggp_deploy.errors import ConfigError, FggpWarning, LayerCollapse
from fggp_deploy.integrations import Pruning
from fggp_deploy.models import build
from fggp_deploy.pruning import methods
from fggp_deploy.pruning.allocation import at_least, floors
from fggp_deploy.pruning.criteria import Criterion
from fggp_deploy.pruning.methods.parts.floors import drop_above_floors, located, positions
from fggp_deploy.pruning.pruner import prunable_parameters
from fggp_deploy.pruning.schedules import OneShot
from fggp_deploy.training.config import PruneConfig


def test_floors_by_hand():
    shapes = {"wide": (10, 100), "tiny": (1, 3), "deep": (2, 30, 3, 3)}
    # one weight per output; a hundredth; at most an equal share of the 154 of 1,543 that stay
    assert floors(shapes, 0.9, 0.001) == {"wide": 10, "tiny": 1, "deep": 2}
    assert floors(shapes, 0.9, 0.01) == {"wide": 10, "tiny": 1, "deep": 6}
    assert floors(shapes, 0.995, 0.01) == {"wide": 5, "tiny": 1, "deep": 2}
    assert floors(shapes, 0.9, 0) == {"wide": 0, "tiny": 0, "deep": 0}


def test_a_target_that_leaves_no_weight_for_a_layer_is_refused():
    shapes = {str(i): (2, 5) for i in range(4)}
    with pytest.raises(LayerCollapse, match=r"0\.95 leaves 2 of 40 weights for 4 layers, .* 0\.9$"):
        floors(shapes, 0.95, 0.001)
    assert sum(floors(shapes, 0.9, 0.001).values()) == 4  # what the message advises


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=6),
    sparsity=st.floats(0, 0.99),
    density=st.floats(0, 0.3),
)
def test_floors_always_fit(sizes: list, sparsity: float, density: float):
    shapes = {str(i): size for i, size in enumerate(sizes)}
    total = sum(a * b for a, b in sizes)
    n_keep = total - round(sparsity * total)
    if len(sizes) > n_keep:
        return
    least = floors(shapes, sparsity, density)
    assert sum(least.values()) <= n_keep
    assert all(least[str(i)] <= a * b for i, (a, b) in enumerate(sizes))
    assert density == 0 or min(least.values()) >= 1


def test_raised_counts_keep_their_total():
    assert at_least({"a": 0, "b": 5, "c": 9}, {"a": 3, "b": 4, "c": 1}) == {"a": 3, "b": 5, "c": 6}
    with pytest.raises(LayerCollapse, match="leaves 3 weights, and the floors of 2 layers need 4"):
        at_least({"a": 0, "b": 3}, {"a": 2, "b": 2})


def by_hand(w: list[float], ends: list[int], least: list[int], n_drop: int) -> list[int]:
    """Global magnitude with floors: one weight after the other, the smallest that may go."""
    layer = [sum(i >= end for end in ends) for i in range(len(w))]
    left = [b - a for a, b in zip([0, *ends], ends, strict=False)]
    gone = []
    for i in sorted(range(len(w)), key=lambda i: (abs(w[i]), i)):
        if len(gone) < n_drop and left[layer[i]] > least[layer[i]]:
            gone.append(i)
            left[layer[i]] -= 1
    return sorted(gone)


@settings(max_examples=300)
@given(seed=st.integers(0, 2**31), n_layers=st.integers(1, 5))
def test_magnitude_above_floors_is_one_by_one(seed: int, n_layers: int):
    rng = random.Random(seed)
    sizes = [rng.randint(1, 9) for _ in range(n_layers)]
    w = [rng.randint(-6, 6) / 4 * rng.choice([0.1, 1, 9]) for _ in range(sum(sizes))]
    ends = [sum(sizes[: i + 1]) for i in range(n_layers)]
    least = [rng.randint(0, n) for n in sizes]
    n_drop = rng.randint(0, sum(sizes) - sum(least))
    weights, alive = torch.tensor(w), torch.ones(len(w), dtype=torch.bool)
    layers = {
        str(i): slice(end - n, end) for i, (n, end) in enumerate(zip(sizes, ends, strict=True))
    }

    def choose(names: list[str], n: int) -> Tensor:
        where = positions([layers[name] for name in names], weights.device)
        return located(Magnitude().drop(weights[where], None, alive[where], n), where)

    floor = {str(i): n for i, n in enumerate(least)}
    gone, _ = drop_above_floors(choose, alive, layers, floor, n_drop)
    assert gone.nonzero().squeeze(1).tolist() == by_hand(w, ends, least, n_drop)
    with pytest.raises(LayerCollapse):
        drop_above_floors(choose, alive, layers, floor, sum(sizes) - sum(least) + 1)


@pytest.mark.parametrize("name", methods.BUILT_IN)
@pytest.mark.filterwarnings("ignore:update at step")
@pytest.mark.filterwarnings("ignore:choosing")
@pytest.mark.filterwarnings("ignore:pruning at the start")
def test_no_method_empties_a_layer_of_tiny_weights(name: str):
    net = make()
    with torch.no_grad():
        net.fc.weight.mul_(1e-6)
    method = methods.make(name, 0.8, steps=10, batches=[batch(0), batch(1)])
    pruner = Pruner(net, method, optimizer=sgd(net))
    steps(net, pruner, 10)
    masks = pruner.finish()
    assert masks.n_removed == round(0.8 * 328)
    assert masks["fc.weight"].sum() >= 5  # one for each output


def test_each_layer_that_is_held_is_told_of_once():
    net = make()
    with torch.no_grad():
        net.fc.weight.mul_(1e-6)
    pruner = Pruner(net, Magnitude(), Cubic(0.8, steps=10, updates=5), optimizer=sgd(net))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        steps(net, pruner, 10, lambda: pruner.masks["fc.weight"].any() or pytest.fail("empty"))
    reported = [str(w.message) for w in seen if issubclass(w.category, FggpWarning)]
    assert len(reported) == 1
    assert "fc.weight (5 of 40)" in reported[0]
    assert pruner.finish().removed_by_layer == {"conv2.weight": 227, "fc.weight": 35}
    again = Pruner(make(), Magnitude(), Cubic(0.8, steps=10, updates=5), optimizer=None)
    again.load_state_dict(pruner.state_dict())
    assert again.state.at_floor == {"fc.weight"}


def test_a_density_of_the_users_own_is_kept():
    net = make()
    with torch.no_grad():
        net.fc.weight.mul_(1e-6)
    schedule = OneShot(0.7)
    pruner = Pruner(net, Magnitude(), schedule, optimizer=sgd(net), min_layer_density=0.2)
    with pytest.warns(FggpWarning, match=r"fc\.weight \(8 of 40\)"):
        steps(net, pruner, 1)
    assert pruner.masks.removed_by_layer["fc.weight"] == 32


def test_blocks_stop_at_the_floor():
    net = make()
    with torch.no_grad():
        net.fc.weight.mul_(1e-6)
    pruner = Pruner(net, Magnitude(), OneShot(0.8), pattern="1x4", optimizer=sgd(net))
    with pytest.warns(FggpWarning, match=r"fc\.weight"):
        steps(net, pruner, 1)
    assert pruner.masks.removed_by_layer == {"conv2.weight": 228, "fc.weight": 32}
    blocks = pruner.masks["fc.weight"].view(-1, 4)
    assert torch.equal(blocks.any(1), blocks.all(1))


def test_an_impossible_target_is_refused_before_the_first_step():
    with pytest.raises(LayerCollapse, match="for 2 layers, and each needs one"):
        Pruner(make(), FGGP(), Cubic(0.997, steps=10), optimizer=None)


@pytest.mark.parametrize("criterion", [FGGP(), Magnitude()])
@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def test_untouched_floors_change_nothing(name: str, criterion: Criterion):
    """The masks of a Pruner with its default floors are those of the criterion on its own."""
    torch.manual_seed(0)
    net = build(name, num_classes=10, in_channels=3)
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, 32, 32, generator=g), torch.arange(4)
    F.cross_entropy(net(x), y).backward()
    params = prunable_parameters(net)
    w = torch.cat([p.detach().reshape(-1).clone() for p in params.values()])
    slope = torch.cat([p.grad.reshape(-1).clone() for p in params.values()])
    schedule = Cubic(0.8, steps=4, updates=3, end=3)
    pruner = Pruner(net, criterion, schedule, optimizer=None)
    alive = torch.ones(len(w), dtype=torch.bool)
    for step in (1, 2, 3):
        pruner.after_backward()
        pruner.after_step()
        n_drop = round(schedule.sparsity(step) * len(w)) - int((~alive).sum())
        alive[criterion.drop(w, slope, alive, n_drop)] = False
        assert torch.equal(pruner.masks.flatten(), alive)
    assert not pruner.state.at_floor


class WithHeads(nn.Module):
    """A network whose auxiliary head takes no part in training."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.aux = nn.Linear(16, 16), nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


def step_with_heads(net: nn.Module, pruner: Pruner, *, zeros: bool = False) -> None:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 16, generator=g), torch.randint(0, 4, (8,), generator=g)
    F.cross_entropy(net(x), y).backward()
    if zeros:
        net.aux.weight.grad = torch.zeros_like(net.aux.weight)
    pruner.after_backward()
    pruner.after_step()


@pytest.mark.parametrize("zeros", [False, True])
def test_an_unused_branch_goes_by_magnitude(zeros: bool):
    by: dict[str, Pruner] = {}
    for name, criterion in (("fggp", FGGP()), ("all", FGGP(rate=1.0)), ("gmp", Magnitude())):
        net = WithHeads()
        by[name] = Pruner(net, criterion, OneShot(0.5), optimizer=None, prune_first=True)
        if not isinstance(criterion, Magnitude):
            with pytest.warns(
                FggpWarning,
                match=r"aux\.weight has no gradient, so its weights are chosen by magnitude",
            ):
                step_with_heads(net, by[name], zeros=zeros)
        else:
            step_with_heads(net, by[name], zeros=zeros)
        assert by[name].masks.n_removed == 192
    assert torch.equal(by["fggp"].masks["aux.weight"], by["gmp"].masks["aux.weight"])
    assert not torch.equal(by["fggp"].masks["body.weight"], by["gmp"].masks["body.weight"])
    assert by["all"].masks.digest() == by["gmp"].masks.digest()


def test_without_any_gradient_the_user_is_told():
    pruner = Pruner(make(), FGGP(), OneShot(0.5), optimizer=None)
    with pytest.warns(FggpWarning, match=r"every prunable weight has no gradient.*zero_grad\(\)"):
        pruner.after_backward()


def test_integrations_take_floor_and_allocation():
    net = make()
    with torch.no_grad():
        net.fc.weight.mul_(1e-6)
    pruning = Pruning(0.75, updates=1, allocation="uniform", min_layer_density=0.2)
    pruner = pruning.begin(net, sgd(net), 2)
    assert pruner.state.min_layer_density == 0.2
    steps(net, pruner, 2)
    assert pruner.finish().removed_by_layer == {"conv2.weight": 216, "fc.weight": 30}


def test_an_allocation_is_for_a_criterion():
    method = methods.make("gmp", 0.5, steps=9)
    with pytest.raises(
        ConfigError, match="Pruner takes `allocation` only with a criterion, got a method"
    ):
        Pruner(make(), method, optimizer=None, allocation="erk")


def test_a_floor_above_the_target_is_refused():
    says = (
        r"--min-layer-density 0\.05 is more than the share of the weights that --target 0\.98 "
        r"keeps; give at most 0\.02"
    )
    with pytest.raises(ConfigError, match=says):
        PruneConfig(target=0.98, min_layer_density=0.05)
    assert PruneConfig(target=0.98, min_layer_density=0.02).min_layer_density == 0.02
    assert PruneConfig(target=0.9995).min_layer_density == 0.001  # the default asks for no more
