"""Lottery tickets and re-initializers: answers in the head, and laws."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import make, sgd, steps
from torch import Tensor, nn

from fggp_deploy import Cubic, Magnitude, MaskSet, Pruner
from fggp_deploy.errors import ConfigError, UnknownName
from fggp_deploy.pruning.methods.gradual import Gradual
from fggp_deploy.pruning.methods.lottery import Lottery, Rounds
from fggp_deploy.pruning.methods.parts.growing_regularization import GrowingReg, Growth
from fggp_deploy.pruning.methods.parts.reinit import Reinit, orthogonal, orthogonalize_


def test_a_fifth_of_the_alive_goes_in_each_round():
    rounds = Rounds(target=0.5, steps=21, rewind_to=1)
    assert rounds.n_prunings == 4
    assert rounds.update_steps == (5, 9, 13, 17)
    assert [round(rounds.sparsity(t), 4) for t in (4, 5, 9, 13, 17, 21)] == [
        0, 0.2, 0.36, 0.488, 0.5, 0.5,
    ]  # fmt: skip
    assert [rounds.cycle(t) for t in (1, 5, 6, 9, 18, 21)] == [
        (1, 5), (5, 5), (2, 5), (5, 5), (2, 5), (5, 5),
    ]  # fmt: skip


def test_a_network_that_is_sparse_enough_trains_in_one_round():
    rounds = Rounds(target=0.5, steps=5, start=0.5)
    assert rounds.update_steps == ()
    assert rounds.last_update == 0
    assert rounds.cycle(3) == (3, 5)


@given(
    target=st.floats(0.01, 0.99), share=st.floats(0.05, 0.9), start=st.floats(0, 0.9),
    rewind_to=st.integers(0, 20), more=st.integers(1, 300),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_rounds_are_equal_and_end_at_the_target(target, share, start, rewind_to, more):
    target = max(target, start)
    n = Rounds(target, 10_000, start=start, share=share).n_prunings
    rounds = Rounds(target, n + rewind_to + more, start=start, share=share, rewind_to=rewind_to)
    ends = [rewind_to, *rounds.update_steps, rounds.steps]
    lengths = {b - a for a, b in pairwise(ends)}
    assert min(lengths) > 0
    assert max(lengths) - min(lengths) <= 1
    assert rounds.sparsity(rounds.steps) == target
    for before, after in pairwise(ends):
        alive = [1 - rounds.sparsity(t) for t in (before, after)]
        assert alive[1] >= alive[0] * (1 - share) - 1e-9
        assert rounds.cycle(after)[0] == rounds.cycle(after)[1]
        assert before == rewind_to or rounds.cycle(before + 1)[0] == rewind_to + 1


def test_more_rounds_than_steps_are_refused():
    with pytest.raises(ConfigError, match="5 rounds of training after step 3 need more than 7"):
        Rounds(target=0.5, steps=7, rewind_to=3)


@pytest.mark.parametrize("rewind_to", [0, 2])
def test_after_each_round_the_network_is_what_it_was(rewind_to: int):
    net = make()
    method = Lottery(
        Rounds(target=0.6, steps=12, share=0.4, rewind_to=rewind_to),
        Reinit("rewind", rewind_to=rewind_to),
    )
    pruner = Pruner(net, method, optimizer=sgd(net))
    seen, then = [], {}

    def look() -> None:
        state = {n: t.clone() for n, t in net.state_dict().items()}
        if pruner.step == rewind_to:
            then.update(state)
        if method.rounds.is_update(pruner.step):
            assert not pruner.state.optimizer.state
            masks = pruner.masks
            assert all(torch.equal(t, then[n] * masks.get(n, 1)) for n, t in state.items())
            seen.append(masks.n_removed)

    then.update({n: t.clone() for n, t in net.state_dict().items()})
    steps(net, pruner, 12, look)
    total = pruner.masks.n_total
    assert seen == [round(0.4 * total), round(0.6 * total)]
    assert pruner.finish().n_removed == round(0.6 * total)
    assert any(not torch.equal(t, then[n]) for n, t in net.state_dict().items())  # has trained


def test_without_rewinding_weights_go_on():
    kept = {}
    for kind in ("rewind", "none"):
        net = make()
        pruner = Pruner(net, Lottery(Rounds(0.5, 6, share=0.5), Reinit(kind)), optimizer=sgd(net))
        steps(net, pruner, 3)
        kept[kind] = net.fc.bias.clone()
        assert bool(pruner.state.optimizer.state) == (kind == "none")
    assert torch.equal(kept["rewind"], make().fc.bias)
    assert not torch.equal(kept["none"], kept["rewind"])


def deviation(w: Tensor) -> float:
    """1 − (Σσ²)²/(n·Σσ⁴) of the rows or columns that are there: 0 where all σ are equal."""
    w = w[w.any(1)][:, w.any(0)].double()
    s = torch.linalg.svdvals(w).square()
    return float(1 - s.sum() ** 2 / (len(s) * s.square().sum()))


def test_a_matrix_of_two_rows():
    w = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    new = orthogonal(w, torch.ones(2, 2, dtype=torch.bool))
    length = (29 / 2) ** 0.5  # half the square of the norm each
    want = length * torch.tensor(
        [[0.6, 0.8], [0.8, -0.6]]
    )  # the second less its share of the first
    torch.testing.assert_close(new, want)


@pytest.mark.parametrize(("rows", "columns"), [(5, 12), (12, 5), (1, 4), (6, 6)])
def test_whole_filters_become_exactly_orthogonal(rows: int, columns: int):
    torch.manual_seed(0)
    w, kept = torch.randn(rows + 2, columns + 1), torch.ones(rows + 2, columns + 1).bool()
    kept[[0, 3 % (rows + 2)]] = False
    kept[:, -1] = False
    new = orthogonal(w, kept)
    assert not new[~kept].any()
    assert float(new.norm()) == pytest.approx(float((w * kept).norm()), rel=1e-5)
    assert deviation(new) == pytest.approx(0, abs=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 12), st.floats(0.1, 0.9))
@settings(max_examples=80, deadline=None)
def test_under_any_mask_isometry_never_gets_worse(seed: int, rows: int, columns: int, density):
    g = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, columns, generator=g) < density
    w = torch.randn(rows, columns, generator=g)
    new = orthogonal(w, kept)
    assert not new[~kept].any()
    if kept.any():
        assert float(new.norm()) == pytest.approx(float((w * kept).norm()), rel=1e-4)
        assert deviation(new) <= deviation(w * kept) + 1e-5


def test_what_is_left_of_a_sparse_layer_comes_nearer_to_an_isometry():
    torch.manual_seed(0)
    kept = torch.rand(64, 288) < 0.1
    w = torch.randn(64, 288)
    assert deviation(orthogonal(w, kept)) < deviation(w * kept) / 10


def test_each_group_of_a_convolution_is_its_own_matrix():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 1, groups=2, bias=False))
    params = {"0.weight": net[0].weight}
    orthogonalize_(net, params, MaskSet.ones(params))
    for part in net[0].weight.detach().view(2, 3, 2):
        assert deviation(part) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["orthp", "rewind"])
def test_a_growing_penalty_and_new_values_for_what_is_left(kind: str):
    net, begin = make(), make()
    method = GrowingReg(
        0.5, Growth(every=1, growth=0.25, ceiling=1.0), window=4, hold=0, granularity="filter",
        input_shape=(1, 8, 8), reinit=Reinit(kind),
    )  # fmt: skip
    pruner = Pruner(net, method, optimizer=sgd(net))
    steps(net, pruner, 3)
    before = net.conv2.weight.detach().clone()
    steps(net, pruner, 1)
    kept = pruner.masks["conv2.weight"]
    assert not pruner.state.optimizer.state
    if kind == "orthp":
        left = net.conv2.weight.detach().flatten(1)
        assert deviation(left) == pytest.approx(0, abs=1e-5)
        assert not torch.equal(net.conv2.weight, before * kept)
    else:
        assert torch.equal(net.conv2.weight, begin.conv2.weight * kept)


@pytest.mark.parametrize("kind", ["orthp", "rewind", "none"])
def test_gradual_pruning_and_new_values_after_its_last_update(kind: str):
    net, begin = make(), make()
    method = Gradual(Magnitude(), Cubic(0.5, steps=5, updates=2))  # at steps 2 and 4
    method.reinit = Reinit(kind)
    pruner = Pruner(net, method, optimizer=sgd(net))
    steps(net, pruner, 2)
    assert pruner.state.optimizer.state  # the first update is followed by nothing
    assert 0 < pruner.masks.sparsity < 0.5
    steps(net, pruner, 2)
    kept = pruner.masks["conv2.weight"]
    assert pruner.masks.sparsity == 0.5
    assert torch.equal(net.conv2.weight, begin.conv2.weight * kept) == (kind == "rewind")
    assert bool(pruner.state.optimizer.state) == (kind == "none")
    trained = net.conv2.weight.detach().clone()
    steps(net, pruner, 1)  # once only
    assert pruner.state.optimizer.state
    assert not torch.equal(net.conv2.weight, trained)


def test_there_are_three_kinds():
    with pytest.raises(UnknownName, match="did you mean 'orthp'"):
        Reinit("ortho")
