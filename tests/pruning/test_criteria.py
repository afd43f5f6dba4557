from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fggp_deploy import FGGP, Magnitude, OneShot, Pruner
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.criteria import smallest


def brute_force(w: list, g: list, alive: list, n_drop: int, rate: float) -> list[int]:
    """FGGP by sorting in plain Python: (value, index) pairs, gradient first, magnitude next."""
    indices = [i for i, a in enumerate(alive) if a]
    k = max(math.floor(rate * len(indices)), n_drop)
    candidates = sorted(indices, key=lambda i: (abs(g[i]), i))[:k]
    return sorted(sorted(candidates, key=lambda i: (abs(w[i]), i))[:n_drop])


@pytest.mark.parametrize("seed", range(1000))
def test_fggp_equals_brute_force(seed: int):
    rng = random.Random(seed)
    n = rng.randint(1, 60)
    # few distinct values, so that ties are everywhere
    w = [rng.randint(-4, 4) / 4 for _ in range(n)]
    g = [rng.randint(-3, 3) / 8 for _ in range(n)]
    alive = [rng.random() < 0.8 for _ in range(n)]
    n_drop = rng.randint(0, sum(alive))
    rate = rng.choice([0.01, 0.2, 0.5, 0.9, 1.0])
    got = FGGP(rate).drop(torch.tensor(w), torch.tensor(g), torch.tensor(alive), n_drop)
    assert sorted(got.tolist()) == brute_force(w, g, alive, n_drop, rate)


@settings(max_examples=300)
@given(data=st.data(), n=st.integers(1, 80))
def test_rate_one_is_magnitude(data: st.DataObject, n: int):
    values = st.lists(st.integers(-5, 5).map(float), min_size=n, max_size=n)
    w, g = torch.tensor(data.draw(values)), torch.tensor(data.draw(values))
    alive = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    n_drop = data.draw(st.integers(0, int(alive.sum())))
    fggp = FGGP(rate=1.0).drop(w, g, alive, n_drop)
    assert fggp.tolist() == Magnitude().drop(w, None, alive, n_drop).tolist()


def test_too_few_candidates_means_smallest_gradient():
    w = torch.tensor([9.0, 1.0, 1.0, 9.0])
    g = torch.tensor([0.1, 0.2, 0.3, 0.4])
    criterion = FGGP(rate=0.25)
    alive = torch.ones(4, dtype=torch.bool)
    assert criterion.drop(w, g, alive, 2).tolist() == [0, 1]  # the two smallest |g|, any |w|
    assert "2 weights must go but rate 0.25 offers only 1" in str(criterion.remark(4, 2))
    assert criterion.remark(8, 2) is None


def test_gradient_first_magnitude_next_by_hand():
    w = torch.tensor([0.1, 0.4, 0.3, 0.2])
    g = torch.tensor([5.0, 1.0, 2.0, 3.0])
    # half of four may go: 1 and 2 have the smallest gradients; 2 is the smaller weight
    assert FGGP(0.5).drop(w, g, torch.ones(4, dtype=torch.bool), 1).tolist() == [2]


def test_the_dead_are_not_chosen():
    w, g = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 2.0])
    assert FGGP(0.5).drop(w, g, torch.tensor([False, True, True]), 1).tolist() == [1]


def test_smallest_breaks_ties_by_index_and_checks_k():
    assert smallest(torch.tensor([1.0, 1.0, 1.0]), 2).tolist() == [0, 1]
    assert smallest(torch.tensor([1.0]), 0).tolist() == []
    with pytest.raises(ConfigError):
        smallest(torch.tensor([1.0]), 2)


@pytest.mark.parametrize("rate", [0, -0.5, 1.1, math.nan])
def test_rate_is_checked(rate: float):
    with pytest.raises(ConfigError, match="rate must be in"):
        FGGP(rate)


def test_fggp_without_gradients_is_an_error():
    with pytest.raises(ConfigError, match="after backward"):
        FGGP().drop(torch.ones(1), None, torch.ones(1, dtype=torch.bool), 1)


class Oldest:
    """A criterion as a user may write it: nothing but `drop`."""

    def drop(self, w, g, alive, n_drop):
        return alive.nonzero().squeeze(1)[:n_drop]


def test_a_criterion_needs_nothing_but_drop():
    model = nn.Linear(4, 2)
    pruner = Pruner(model, Oldest(), OneShot(0.5), optimizer=None)
    model(torch.ones(1, 4)).sum().backward()
    pruner.after_backward()
    pruner.after_step()
    assert pruner.finish()["weight"].tolist() == [[False] * 4, [True] * 4]
