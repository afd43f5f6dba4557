"""FGGP's ablation arms, GraNet, RigL and SET: answers in the head, and laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import make, sgd, steps
from torch import Tensor

from fggp_deploy import FGGP, Cubic, Magnitude, MaskSet, Pruner
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.methods.ablations import (
    Annealed,
    MagnitudeFirst,
    MeanGradient,
    RankCriterion,
    Saliency,
    Widened,
)
from fggp_deploy.pruning.methods.gradual import Gradual
from fggp_deploy.pruning.methods.granet import GraNet
from fggp_deploy.pruning.methods.parts.regrowth import Dynamic, Exchanges, exchange, exchanged
from fggp_deploy.pruning.methods.rigl import by_chance, by_gradient
from fggp_deploy.pruning.schedules import Cosine

W = torch.tensor([0.1, -0.2, 0.3, 0.4, -0.5, 0.6])
G = torch.tensor([6.0, 5.0, -1.0, 2.0, 3.0, 4.0])
ALL = torch.ones(6, dtype=torch.bool)


@pytest.mark.parametrize(
    ("criterion", "dropped"),
    [
        (MagnitudeFirst(0.5), [1, 2]),  # of 0 1 2 the smallest |g|: 5 and 1
        (MagnitudeFirst(1.0), [2, 3]),  # all compete by |g|
        (MagnitudeFirst(0.1), [0, 1]),  # too few candidates: |w| alone
        (Widened("magnitude", 0.25), [1, 2]),  # 2 and a quarter of the other 4
        (Widened("magnitude", 0.0), [0, 1]),
        (Widened("magnitude", 1.0), [2, 3]),
        (Widened("gradient", 0.25), [2, 3]),  # of 2 3 4 the smallest |w|
        (Widened("gradient", 0.5), [2, 3]),  # of 2 3 4 5
        (Widened("gradient", 1.0), [0, 1]),
        (Saliency(), [2, 0]),  # .6 1. .3 .8 1.5 2.4
        (RankCriterion("sum"), [2, 3]),  # 7 7 4 6 8 10
        (RankCriterion("product"), [2, 0]),  # 6 10 3 8 15 24
    ],
)
def test_which_two_of_six_go(criterion, dropped: list[int]):
    assert sorted(criterion.drop(W, G, ALL, 2).tolist()) == sorted(dropped)


def test_the_dead_have_no_rank():
    alive = torch.tensor([True, True, False, True, True, True])
    assert RankCriterion("sum").drop(W, G, alive, 1).tolist() == [3]  # 6 6 - 4 6 8
    assert Saliency().drop(W, G, alive, 1).tolist() == [0]


def test_equal_values_share_a_rank_and_the_lower_index_goes():
    w, g = torch.tensor([2.0, 1.0, 1.0]), torch.ones(3)
    assert RankCriterion("product").drop(w, g, torch.ones(3, dtype=torch.bool), 1).tolist() == [1]


def test_shares_outside_their_range_are_refused():
    with pytest.raises(ConfigError, match=r"rate must be in \(0, 1\], got 0"):
        MagnitudeFirst(0)
    with pytest.raises(ConfigError, match=r"share must be in \[0, 1\], got 2"):
        Widened("gradient", 2)
    with pytest.raises(ConfigError, match="needs the gradients"):
        Saliency().drop(W, None, ALL, 1)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    """Few values, so that there are many ties."""
    n = draw(st.integers(2, 30))
    numbers = st.lists(st.integers(-4, 4), min_size=n, max_size=n)
    w, g = (torch.tensor(draw(numbers), dtype=torch.float32) for _ in "wg")
    alive = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return w, g, alive, draw(st.integers(0, int(alive.sum())))


@given(problems())
@settings(max_examples=150, deadline=None)
def test_the_limits_of_the_arms_are_each_other(problem):
    w, g, alive, n = problem
    by_magnitude = Magnitude().drop(w, g, alive, n).tolist()
    by_gradient = Magnitude().drop(g, w, alive, n).tolist()
    for criterion in (FGGP(1.0), Widened("gradient", 1.0), Widened("magnitude", 0.0)):
        assert criterion.drop(w, g, alive, n).tolist() == by_magnitude
    for criterion in (MagnitudeFirst(1.0), Widened("magnitude", 1.0), Widened("gradient", 0.0)):
        assert criterion.drop(w, g, alive, n).tolist() == by_gradient
    for criterion in (Saliency(), RankCriterion("sum"), RankCriterion("product")):
        chosen = criterion.drop(w, g, alive, n)
        assert len(set(chosen.tolist())) == n
        assert bool(alive[chosen].all())


def run(method, n: int = 20) -> list[str]:
    """The masks after each of n steps of a small network."""
    net = make()
    pruner = Pruner(net, method, optimizer=sgd(net))
    digests: list[str] = []
    steps(net, pruner, n, lambda: digests.append(pruner.masks.digest()))
    pruner.finish()
    return digests


def cubic() -> Cubic:
    return Cubic(0.8, steps=20, updates=8)


def test_annealing_from_and_to_one_is_magnitude_pruning():
    gmp = run(Gradual(Magnitude(), cubic()))
    assert run(Gradual(FGGP(1.0), cubic())) == gmp
    assert run(Annealed("gradient", Cosine(1.0, 1.0, steps=20), cubic())) == gmp
    assert run(Annealed("magnitude", Cosine(0.0, 0.0, steps=20), cubic())) == gmp
    assert run(Annealed("gradient", Cosine(0.5, 0.005, steps=20), cubic())) != gmp


def test_an_average_without_memory_is_the_gradient():
    fggp = run(Gradual(FGGP(0.5), cubic()))
    assert run(MeanGradient(0.5, 0.0, cubic())) == fggp
    assert run(MeanGradient(0.5, 0.5, cubic())) != fggp


def test_the_average_of_gradients():
    net = make()
    method = MeanGradient(0.5, 0.5, cubic())
    pruner = Pruner(net, method, optimizer=None)
    for value in (4.0, -2.0, torch.inf, 1.0):
        for p in net.parameters():
            p.grad = torch.full_like(p, value)
        pruner.after_backward()
        pruner.after_step()
    assert method.gradients(pruner.state).unique().tolist() == [2.0]  # 4, 3, 3, 2


def test_two_smallest_make_place_for_the_two_likeliest():
    w = torch.tensor([5.0, 0.1, -0.2, 4.0, 0.0, 0.0, 0.0])
    likely = torch.tensor([0.0, 1.0, 9.0, 0.0, 3.0, 2.0, 4.0])
    # 1 and 2 go; of 1 2 4 5 6 the likeliest are 2, which stays then, and 6
    assert exchange(w, w != 0, likely, 2).tolist() == [True, False, True, True, False, False, True]


def test_a_dense_layer_has_no_place_to_grow():
    w = torch.arange(1.0, 13)
    masks = MaskSet(
        {"dense": torch.ones(4, dtype=torch.bool), "half": torch.arange(8).view(2, 4) % 2 == 0}
    )
    moved = exchanged(masks, w, torch.arange(12.0), 0.3)
    assert bool(moved["dense"].all())
    # of the 4 alive ⌈1.2⌉ = 2 go, the first ones; 7 and 5 are the likeliest of what is empty
    assert moved["half"].tolist() == [[False, False, False, False], [True, True, True, True]]


@given(problems())
@settings(max_examples=100, deadline=None)
def test_an_exchange_keeps_the_count(problem):
    w, likely, alive, n = problem
    assert int(exchange(w, alive, likely, n).sum()) == int(alive.sum())


def test_when_weights_are_exchanged():
    every_third = Exchanges(Cosine(0.5, 0.0, steps=12), updates=4)
    assert [t for t in range(14) if every_third.is_due(t)] == [3, 6, 9]  # not in the last step
    half = Exchanges(Cosine(0.5, 0.0, steps=12), updates=2, until=0.5)
    assert [t for t in range(14) if half.is_due(t)] == [3, 6]
    often = Exchanges(Cosine(0.5, 0.0, steps=4), updates=50)
    assert [t for t in range(6) if often.is_due(t)] == [1, 2, 3]


def exchanges(share: float, n: int = 20) -> Exchanges:
    return Exchanges(Cosine(share, share / 10, steps=n), updates=10)


def test_granet_without_regrowth_is_gmp():
    gmp = run(Gradual(Magnitude(), cubic()))
    assert run(GraNet(cubic(), exchanges(0.0))) == gmp
    regrown = run(GraNet(cubic(), exchanges(0.5)))
    assert regrown != gmp
    assert len(set(regrown[16:])) > 1  # exchanges go on when pruning has ended


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_granet_is_exact_and_its_grown_weights_begin_at_zero(start: float):
    net, seen = make(), []
    method = GraNet(
        Cubic(0.8, steps=20, updates=8, start=start), exchanges(0.5), start_sparsity=start,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    pruner = Pruner(net, method, optimizer=sgd(net))
    assert pruner.masks.n_removed == round(start * pruner.masks.n_total)
    state, at_first, masks = pruner.state, pruner.masks, []
    choose, take = method.after_backward, state.set_masks

    def taken(new: MaskSet, *, when: str) -> None:
        masks.append(new)
        take(new, when=when)

    def watched(state, step: int) -> None:
        masks[:] = [state.masks] * 2  # then the pruned and the exchanged, where they are others
        choose(state, step)
        for name, mask in masks[-1].items():
            grown = mask & ~masks[-2][name]
            seen.append(int(grown.sum()))
            assert not state.params[name].detach()[grown].any()
            momentum = state.optimizer.state.get(state.params[name], {}).get("momentum_buffer")
            assert momentum is None or not momentum[grown].any()

    state.set_masks = taken  # type: ignore[method-assign]
    method.after_backward = watched  # type: ignore[method-assign]

    def check() -> None:
        want = method.schedule.sparsity(pruner.step)
        assert pruner.masks.n_removed == round(want * pruner.masks.n_total)

    steps(net, pruner, 20, check)
    assert sum(seen) > 20
    assert not start or not pruner.finish().is_subset_of(at_first)


def dynamic(random: bool, target: float = 0.7) -> Dynamic:
    generator = torch.Generator().manual_seed(3)
    likely = (lambda state: by_chance(generator, state)) if random else by_gradient
    return Dynamic(target, exchanges(0.4), likely, allocation="erk", generator=generator)


@pytest.mark.parametrize("random", [False, True])
def test_every_layer_keeps_its_count(random: bool):
    net = make()
    pruner = Pruner(net, dynamic(random), optimizer=sgd(net))
    at_first, seen = pruner.masks.removed_by_layer, {pruner.masks.digest()}
    assert pruner.masks.n_removed == round(0.7 * pruner.masks.n_total)

    def check() -> None:
        assert pruner.masks.removed_by_layer == at_first
        seen.add(pruner.masks.digest())

    steps(net, pruner, 20, check)
    assert len(seen) > 5
    masks = pruner.finish()
    assert all(not net.get_parameter(n)[~m].any() for n, m in masks.items())


def test_moving_masks_keep_the_count_they_are_given_or_refuse():
    net = make()
    with torch.no_grad():
        net.conv2.weight.view(-1)[:164] = 0  # half of 328
    pruner = Pruner(net, dynamic(False, target=0.5), optimizer=sgd(net))
    assert pruner.masks.removed_by_layer == {"conv2.weight": 164, "fc.weight": 0}
    with pytest.raises(ConfigError, match=r"164 removed weights and --target 0\.7 means 230"):
        Pruner(net, dynamic(False), optimizer=sgd(net))


def test_an_exchange_waits_for_finite_gradients():
    net = make()
    pruner = Pruner(net, dynamic(False), optimizer=None)
    before = pruner.masks
    for value in (1.0, torch.nan):  # exchanges are due at steps 2, 4, …
        for p in net.parameters():
            p.grad = torch.full_like(p, value)
        pruner.after_backward()
        pruner.after_step()
    assert pruner.masks is before
    for p in net.parameters():
        p.grad = torch.arange(p.numel(), dtype=torch.float32).view(p.shape)
    pruner.after_backward()
    assert pruner.masks is not before
    assert pruner.masks.n_removed == before.n_removed
