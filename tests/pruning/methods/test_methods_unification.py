"""Micro-structured unification and pruning: answers in the head, laws, and resumption."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import batch, make, sgd, steps
from torch import nn

from fggp_deploy import Cubic, Pruner
from fggp_deploy.errors import ConfigError, LayerCollapse
from fggp_deploy.pruning.methods.parts.blocks import Blocking
from fggp_deploy.pruning.methods.unification import (
    SHAPES,
    Unification,
    UnificationOptions,
    least_blocks,
    shared,
)


def test_blocks_of_a_weight():
    w = torch.arange(16.0).view(4, 4)
    assert Blocking((4, 4), 1, 4).cut(w).tolist() == w.tolist()
    assert Blocking((4, 4), 4, 1).cut(w).tolist() == w.T.tolist()
    assert Blocking((4, 4), 2, 2).cut(w)[1].tolist() == [2, 3, 6, 7]
    over = Blocking((3, 5), 2, 2)
    assert over.grid == (2, 3)
    assert over.cut(torch.ones(3, 5)).sum(1).tolist() == [4, 4, 2, 2, 2, 1]


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.sampled_from(SHAPES))
def test_what_is_cut_is_joined(rows: int, columns: int, taps: int, block: str):
    shape = (rows, columns, taps, taps)
    height, width = map(int, block.split("x"))
    w = torch.arange(1.0, torch.Size(shape).numel() + 1).view(shape)
    blocking = Blocking(shape, height, width)
    assert torch.equal(blocking.join(blocking.cut(w)), w)
    assert torch.equal(blocking.join(blocking.cut(w > 3)), w > 3)


def test_a_shared_magnitude_in_the_head():
    w = torch.tensor([[1.0, -3.0, 2.0, -2.0], [4.0, -2.0, 0.0, 0.0]])
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    assert shared(w, w < 0, valid).tolist() == [[2.0, -2.0, 2.0, -2.0], [3.0, -3.0, 0.0, 0.0]]
    # with signs of before: −1 and 3 of a block that was + + are 1 and 1
    old = torch.zeros(1, 2, dtype=torch.bool)
    assert shared(torch.tensor([[-1.0, 3.0]]), old, ~old).tolist() == [[1.0, 1.0]]


def test_the_blocks_that_go():
    cost, size = torch.tensor([4.0, 1.0, 2.0, 8.0]), torch.tensor([4, 4, 2, 4])
    gone, _, left = least_blocks(cost, size, 8)  # a weight: 1, ¼, 1, 2; of equal ones the first
    assert (gone.tolist(), left) == ([True, True, False, False], 0)
    gone, block, left = least_blocks(cost, size, 9)
    assert (gone.tolist(), block, left) == ([True, True, False, False], 2, 1)
    gone, _, left = least_blocks(cost, size, 0)
    assert (gone.any().item(), left) == (False, 0)
    assert least_blocks(cost, size, 14)[0].all()


class TwoRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[0.1, -0.1, 0.2, 0.1], [3.0, -1.0, 2.0, -2.0]]))


def test_one_update_in_the_head():
    """Half of two blocks: the small row goes, the other one's |w| are 3 1 2 2, so 2."""
    net = TwoRows()
    pruner = Pruner(net, Unification(Cubic(0.5, steps=2, end=1, updates=1)), optimizer=None)
    net.fc.weight.grad = torch.zeros(2, 4)
    pruner.after_backward()
    # Z is what the row is to be, U is 0: the pull is ρ(W − Z)
    want = 0.01 * torch.tensor([[0.1, -0.1, 0.2, 0.1], [1.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(net.fc.weight.grad, want)
    pruner.after_step()
    assert net.fc.weight.tolist() == [[0, 0, 0, 0], [2, -2, 2, -2]]
    assert pruner.finish()["fc.weight"].tolist() == [[False] * 4, [True] * 4]
    with torch.no_grad():
        net.fc.weight[1] += torch.tensor([1.0, 1.0, -1.0, 1.0])  # 3 −1 1 −1: of its signs 1.5
    pruner.after_step()
    assert net.fc.weight[1].tolist() == [1.5, -1.5, 1.5, -1.5]


def test_a_dual_update_in_the_head():
    """U grows by W − Z, and the next pull has it."""
    net = TwoRows()
    method = Unification(Cubic(0.5, steps=2, end=2, updates=2), UnificationOptions(rho=1.0))
    pruner = Pruner(net, method, optimizer=None)
    for _ in range(2):
        net.fc.weight.grad = torch.zeros(2, 4)
        pruner.after_backward()
        pruner.after_step()
    want = torch.tensor([[0.2, -0.2, 0.4, 0.2], [2.0, 2.0, 0.0, 0.0]])  # W − Z, and U as large
    torch.testing.assert_close(net.fc.weight.grad, want)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(SHAPES), st.floats(0.05, 0.9), st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from(["global", "uniform", "erk"]),
)  # fmt: skip
def test_unified_blocks_share_one_magnitude(
    block: str, target: float, share: float, allocation: str
):
    net = make()
    options = UnificationOptions(block=block, unified=share, allocation=allocation)
    method = Unification(Cubic(target, steps=8, updates=3), options)
    pruner = Pruner(net, method, optimizer=sgd(net))
    steps(net, pruner, 8)
    masks = pruner.finish()
    assert masks.n_removed == round(target * masks.n_total)
    height, width = map(int, block.split("x"))
    n_alike = n_kept = n_mixed = 0
    for name, mask in masks.items():
        assert not net.get_parameter(name)[~mask].any()
        blocking = Blocking(tuple(mask.shape), height, width)
        valid = blocking.cut(torch.ones_like(mask))
        for w, kept, real in zip(
            blocking.cut(net.get_parameter(name).detach()), blocking.cut(mask), valid, strict=True
        ):
            if kept.any() and not torch.equal(kept, real):
                n_mixed += 1
            elif kept.any():
                n_kept += 1
                n_alike += len(w[real].abs().unique()) == 1
    n_held = len(pruner.state.at_floor)  # a layer at its floor has a count of its own
    assert n_mixed <= (1 + n_held if allocation == "global" else len(masks))
    assert n_alike >= round(share * n_kept) - len(masks)
    assert share < 1 or n_alike == n_kept


def test_the_signs_in_a_block_stay():
    net = make()
    pruner = Pruner(net, Unification(Cubic(0.5, steps=10, updates=2)), optimizer=sgd(net))
    steps(net, pruner, 8)  # the last update's
    fixed = net.conv2.weight.detach().clone()
    assert pruner.changed_at == 8
    steps(net, pruner, 2)
    w = net.conv2.weight.detach()
    assert not torch.equal(w, fixed)
    one = (w * fixed).view(-1, 4).sign()  # all of a block keep their signs, or none does
    assert all(len(row.unique()) == 1 for row in one)


def test_the_pull_brings_weights_to_their_blocks():
    """With the pull the weights lie nearer to what they will be made: 0.2 of them, not 0.7."""
    moved = {}
    for rho in (0.0, 1.0):
        net = make()
        cubic = Cubic(0.5, steps=200, end=81, updates=5)
        pruner = Pruner(net, Unification(cubic, UnificationOptions(rho=rho)), optimizer=sgd(net))
        steps(net, pruner, 80)
        before = net.conv2.weight.detach().clone()
        pruner.finish()
        moved[rho] = float((net.conv2.weight.detach() - before).norm() / before.norm())
    assert moved[1.0] < 0.5 * moved[0.0]


@pytest.mark.parametrize("at", [3, 8])
def test_a_loop_goes_on_where_it_was(at: int):
    net = make()
    cubic = Cubic(0.5, steps=10, end=6, updates=3)
    pruner = Pruner(net, Unification(cubic), optimizer=sgd(net))
    steps(net, pruner, at)
    again = make(1)
    optimizer = sgd(again)
    other = Pruner(again, Unification(cubic), optimizer=optimizer, begin=False)
    again.load_state_dict(copy.deepcopy(net.state_dict()))
    optimizer.load_state_dict(copy.deepcopy(pruner.state.optimizer.state_dict()))
    other.load_state_dict(copy.deepcopy(pruner.state_dict()))
    x, y = batch(1)
    for which, trained in ((pruner, net), (other, again)):
        for _ in range(10 - at):
            trained.zero_grad()
            F.cross_entropy(trained(x), y).backward()
            which.after_backward()
            which.state.optimizer.step()
            which.after_step()
    assert other.finish().digest() == pruner.finish().digest()
    assert torch.equal(net.fc.weight, again.fc.weight)


def test_an_update_waits_for_finite_gradients():
    net = make()
    pruner = Pruner(net, Unification(Cubic(0.5, steps=2, end=1, updates=1)), optimizer=None)
    for p in net.parameters():
        p.grad = torch.full_like(p, torch.inf)
    pruner.after_backward()
    assert not pruner.masks.n_removed
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    pruner.after_backward()
    assert pruner.masks.sparsity == 0.5


def test_a_layer_that_would_be_empty_names_the_cure():
    net = make()
    with torch.no_grad():
        net.fc.weight *= 1e-3
    method = Unification(Cubic(0.5, steps=2, end=1, updates=1))
    pruner = Pruner(net, method, optimizer=None, min_layer_density=0)
    with pytest.raises(LayerCollapse, match=r"every weight of fc.weight; .* allocation=erk"):
        pruner.after_backward()


def test_a_sparse_network_is_refused():
    net = make()
    with torch.no_grad():
        net.fc.weight[0] = 0
    with pytest.raises(ConfigError, match="sparse; its zeros may not fill whole blocks"):
        Pruner(net, Unification(Cubic(0.5, steps=2)), optimizer=None)
