"""FGGP's ablation arms, GraNet, RigL and SET: answers in the head, and laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pruner import make, sgd, steps
from torch import Tensor

from fggp_deploy import FGGP, Cubic, Magnitude, Pruner
from fggp_deploy.errors import ConfigError
from fggp_deploy.methods.arms import (
    Annealed,
    MagnitudeFirst,
    MeanGradient,
    Ranks,
    Saliency,
    Widened,
)
from fggp_deploy.methods.gradual import Gradual
from fggp_deploy.schedules import Cosine

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
        (Ranks("sum"), [2, 3]),  # 7 7 4 6 8 10
        (Ranks("product"), [2, 0]),  # 6 10 3 8 15 24
    ],
)
def test_which_two_of_six_go(criterion, dropped: list[int]):
    assert sorted(criterion.drop(W, G, ALL, 2).tolist()) == sorted(dropped)


def test_the_dead_have_no_rank():
    alive = torch.tensor([True, True, False, True, True, True])
    assert Ranks("sum").drop(W, G, alive, 1).tolist() == [3]  # 6 6 - 4 6 8
    assert Saliency().drop(W, G, alive, 1).tolist() == [0]


def test_equal_values_share_a_rank_and_the_lower_index_goes():
    w, g = torch.tensor([2.0, 1.0, 1.0]), torch.ones(3)
    assert Ranks("product").drop(w, g, torch.ones(3, dtype=torch.bool), 1).tolist() == [1]


def test_shares_outside_their_range_are_refused():
    with pytest.raises(ConfigError, match=r"rate must be in \(0, 1\], got 0"):
        MagnitudeFirst(0)
    with pytest.raises(ConfigError, match=r"share must be in \[0, 1\], got 2"):
        Widened("gradient", 2)
    with pytest.raises(ConfigError, match="reads gradients"):
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
    for criterion in (Saliency(), Ranks("sum"), Ranks("product")):
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
