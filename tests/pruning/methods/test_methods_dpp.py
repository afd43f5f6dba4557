"""DPP: answers in the head, its relaxation against the definition, and the law of exact counts."""

from __future__ import annotations

import copy
import json

import nets
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import batch, make, sgd, steps
from torch import Tensor, nn

from fggp_deploy import Pruner
from fggp_deploy.errors import ConfigError
from fggp_deploy.exporters.compaction import compacted
from fggp_deploy.exporters.torch_onnx import to_onnx
from fggp_deploy.pruning.methods.dpp import DPP, DPPOptions
from fggp_deploy.pruning.methods.parts.granularity import Units, whole_units
from fggp_deploy.pruning.methods.parts.gumbel_top_k import (
    confidence,
    diversity,
    draw_order,
    drawn,
    entropy,
    entropy_gradient,
    gumbel,
    likeliest,
    relaxed_gradient,
)
from fggp_deploy.training.config import PruneConfig


def literal(logits: Tensor, noise: Tensor, k: Tensor, tau: float) -> Tensor:
    """Σ_i soft_i as METHODS has it, term by term, ε tiny: [rows, n], float64."""
    rows = []
    for phi, g, n_drawn in zip(logits, noise, k.tolist(), strict=True):
        before = torch.zeros_like(phi)
        total = torch.zeros_like(phi)
        for _ in range(n_drawn):
            soft = ((torch.log(phi.exp() * (1 - before) + 1e-300) + g) / tau).softmax(0)
            total = total + soft
            left = torch.where(before.bool(), -torch.inf, phi + g)
            before = before.clone()
            before[left.argmax()] = 1
        rows.append(total)
    return torch.stack(rows)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.sampled_from([5.0, 1.0, 0.5]))
def test_the_gradient_is_that_of_the_definition(seed: int, n: int, tau: float):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, n, generator=g, dtype=torch.float64).requires_grad_()
    noise = gumbel((3, n), generator=g).double()
    k = torch.randint(0, n + 1, (3,), generator=g)
    k[0] = n  # all are drawn
    pull = torch.randn(3, n, generator=g, dtype=torch.float64)
    (pull * literal(logits, noise, k, tau)).sum().backward()
    scores = logits.detach() + noise
    got = relaxed_gradient(scores, draw_order(scores, k), k, pull, tau)
    torch.testing.assert_close(got, logits.grad, rtol=1e-7, atol=1e-9)


def test_the_gradient_of_one_of_two_in_the_head():
    """One of two with even chances, τ = 1: soft = (½, ½), its derivative ½·½ on each side."""
    even, order, pull = torch.zeros(1, 2), torch.tensor([[0, 1]]), torch.tensor([[4.0, 0.0]])
    one = relaxed_gradient(even, order[:, :1], torch.tensor([1]), pull, 1.0)
    assert one.tolist() == [[1.0, -1.0]]
    both = relaxed_gradient(even, order, torch.tensor([2]), pull, 1.0)
    assert both.tolist() == [[1.0, -1.0]]  # the first draw's; the second has no choice


def test_far_logits_stay_finite():
    logits = torch.tensor([[200.0, 0.0, -200.0, 1.0]])
    for n in (1, 2, 4):
        k = torch.tensor([n])
        got = relaxed_gradient(logits, draw_order(logits, k), k, logits, 0.5)
        assert torch.isfinite(got).all()
    assert torch.isfinite(entropy_gradient(logits)).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 12))
def test_exactly_k_of_a_row_are_drawn(seed: int, rows: int, n: int):
    g = torch.Generator().manual_seed(seed)
    k = torch.randint(0, n + 1, (rows,), generator=g)
    k[0] = max(1, int(k[0]))
    scores = torch.randint(0, 3, (rows, n), generator=g).float()  # many are equal
    kept = likeliest(scores, k)
    assert kept.sum(1).tolist() == k.tolist()
    assert drawn(draw_order(scores, k), k, n).sum(1).tolist() == k.tolist()
    for row, mask in zip(scores, kept, strict=True):
        order = row.argsort(descending=True, stable=True)  # of equal ones the first
        assert sorted(order[: int(mask.sum())].tolist()) == mask.nonzero().flatten().tolist()


def test_chances_are_those_of_the_logits():
    g = torch.Generator().manual_seed(0)
    noise = gumbel((20_000, 2), generator=g)
    logits = torch.tensor([[0.0, torch.tensor(3.0).log()]])  # 1 : 3
    one = torch.ones(20_000, dtype=torch.int64)
    share = drawn(draw_order(logits + noise, one), one, 2).float().mean(0)
    assert share[1] == pytest.approx(0.75, abs=0.01)


def test_confidence_and_diversity_in_the_head():
    even, sure = torch.zeros(2, 4), torch.tensor([[99.0, 0, 0, 0], [0, 99.0, 0, 0]])
    assert confidence(even) == pytest.approx(0)
    assert confidence(sure) == pytest.approx(1)
    assert confidence(torch.zeros(3, 1)) == 1
    assert diversity(even) == pytest.approx(0, abs=1e-6)
    assert diversity(sure[:1].expand(2, 4)) == pytest.approx(0, abs=1e-6)
    assert diversity(sure) == pytest.approx(0.693147, abs=1e-5)  # log 2: two rows, two choices
    assert entropy(even).tolist() == pytest.approx([1.386294] * 2)  # log 4


def test_the_entropys_gradient_is_autograds():
    logits = torch.randn(3, 5, dtype=torch.float64).requires_grad_()
    entropy(logits).sum().backward()
    torch.testing.assert_close(entropy_gradient(logits.detach()), logits.grad)


@pytest.mark.parametrize(
    ("granularity", "units"),
    [("weight", (4, 18, 1)), ("kernel", (4, 2, 9)), ("filter", (1, 4, 18))],
)
def test_units_of_a_weight(granularity: str, units: tuple[int, int, int]):
    found = Units.of((4, 2, 3, 3), granularity)
    assert (found.rows, found.n, found.size) == units
    w = torch.arange(72.0).view(4, 2, 3, 3).to(memory_format=torch.channels_last)
    assert found.sums(w).sum() == w.sum()
    first = torch.zeros(found.rows, found.n)
    first[-1, -1] = 1
    mask = found.spread(first, w)
    assert mask.shape == w.shape
    assert mask.stride() == w.stride()
    assert mask.reshape(-1).nonzero().flatten().tolist() == list(range(72 - found.size, 72))
    assert Units.of((5, 7), granularity) == Units(5, 7, 1)


def test_rows_get_k_or_one_more():
    assert Units(4, 9, 1).by_row(10) == [3, 3, 2, 2]


def test_fewer_than_one_a_row_are_drawn_from_all_rows():
    assert Units(4, 9, 1).grouped(4) == Units(4, 9, 1)
    assert Units(4, 9, 1).grouped(3) == Units(1, 36, 1)
    assert Units.of((8, 1, 3, 3), "kernel").grouped(3) == Units(1, 8, 9)  # depthwise


class Depthwise(nn.Module):
    """Six channels, each with a filter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, groups=6, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1).sum(1)


@pytest.mark.parametrize(("granularity", "kept"), [("kernel", 18), ("weight", 5)])
def test_which_channels_die_is_learned(granularity: str, kept: int):
    """Less than one unit a filter is kept, and the target is made of the last two channels."""
    net, target = Depthwise(), 1 - kept / 54
    pruner = Pruner(
        net,
        DPP(target, 100, DPPOptions(granularity=granularity)),
        optimizer=torch.optim.SGD(net.parameters(), 0.005),
        prune_first=True,
    )
    g = torch.Generator().manual_seed(0)
    for _ in range(100):
        x = torch.randn(32, 6, 3, 3, generator=g)
        net.zero_grad()
        F.mse_loss(net(x), x[:, 4:].flatten(1).sum(1)).backward()
        pruner.after_backward()
        pruner.state.optimizer.step()
        pruner.after_step()
    by_channel = pruner.finish()["conv.weight"].flatten(1).sum(1)
    assert by_channel[:4].tolist() == [0, 0, 0, 0]
    assert by_channel.sum() == kept


def test_a_run_whose_rows_were_drawn_apart_goes_on_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Units, "grouped", lambda units, n_kept: units)
    net = make()
    old = Pruner(net, DPP(0.8, 10, DPPOptions(granularity="kernel")), optimizer=sgd(net))
    assert old.method._layers["conv2.weight"].logits.shape == (8, 4)
    steps(net, old, 3)
    monkeypatch.undo()
    again = make()
    new = DPP(0.8, 10, DPPOptions(granularity="kernel"))
    pruner = Pruner(again, new, optimizer=sgd(again), begin=False)
    again.load_state_dict(net.state_dict())
    pruner.load_state_dict(copy.deepcopy(old.state_dict()))
    steps(again, pruner, 2)
    assert new._layers["conv2.weight"].logits.shape == (8, 4)
    fresh = Pruner(make(), DPP(0.8, 10, new.options), optimizer=None)
    assert fresh.method._layers["conv2.weight"].logits.shape == (1, 32)


def test_whole_units_meet_the_total_or_say_what_would():
    units = {"a": Units(1, 8, 9), "b": Units(1, 8, 4), "c": Units(4, 10, 1)}
    kept = whole_units(units, {"a": 25, "b": 9, "c": 10})
    assert kept == {"a": 2, "b": 4, "c": 10}  # 18 + 16 + 10: what a left over went to b
    assert whole_units({"a": units["a"]}, {"a": 36}) == {"a": 4}
    with pytest.raises(ConfigError, match=r"whole units of 9 .* sparsity 0.625 is possible"):
        whole_units({"a": units["a"]}, {"a": 35})
    with pytest.raises(ConfigError, match=r"^exactly 68 of 72 weights cannot"):
        whole_units({"a": units["a"]}, {"a": 4})
    least = whole_units({"a": units["a"], "b": units["b"]}, {"a": 5, "b": 8})
    assert least == {"a": 1, "b": 1}  # 13 in all


@pytest.mark.parametrize("granularity", ["weight", "kernel", "filter"])
@pytest.mark.parametrize("target", [0.5, 0.8])
def test_counts_are_exact_after_every_step(granularity: str, target: float):
    net = make()
    options = DPPOptions(granularity=granularity)
    pruner = Pruner(net, DPP(target, 10, options), optimizer=sgd(net))
    rows = {}

    def check() -> None:
        assert pruner.masks.n_removed == round(target * pruner.masks.n_total)
        for name, mask in pruner.masks.items():
            assert not net.get_parameter(name)[~mask].any()
            size = Units.of(tuple(mask.shape), granularity).size
            units = Units.of(tuple(mask.shape), granularity).grouped(int(mask.sum()) // size)
            whole = units.sums(mask.float())
            assert set(whole.unique().tolist()) <= {0.0, float(size)}  # whole units
            counts = (whole.sum(1) / size).tolist()
            assert rows.setdefault(name, counts) == counts  # k a row, at all times
            assert max(counts) - min(counts) <= 1

    check()
    seen = set()
    steps(net, pruner, 10, lambda: (check(), seen.add(pruner.masks.digest())))
    assert len(seen) > 3  # drawn anew
    masks = pruner.finish()
    measured = pruner.method.metrics()
    assert list(measured) == ["confidence", "diversity"]
    assert list(measured["confidence"]) == list(masks)


def test_after_the_last_draw_the_likeliest_stay():
    net = make()
    method = DPP(0.5, 10, DPPOptions(until=0.5))
    pruner = Pruner(net, method, optimizer=sgd(net))
    steps(net, pruner, 5)
    last = pruner.masks
    layer = method._layers["fc.weight"]
    assert torch.equal(last["fc.weight"], likeliest(layer.logits.detach(), layer.k))
    before = net.fc.weight.detach().clone()
    steps(net, pruner, 2)
    assert pruner.masks is last
    assert pruner.changed_at == 5
    assert not torch.equal(net.fc.weight, before)
    assert pruner.finish() is last


class OneOfFour(nn.Module):
    """y = w·x with four inputs, of which one matters."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 1, bias=False)
        nn.init.ones_(self.fc.weight)


@pytest.mark.parametrize("which", range(4))
def test_the_gradient_reaches_the_logits(which: int):
    """The input that the target is made of is kept, whatever |w| says."""
    net = OneOfFour()
    pruner = Pruner(
        net,
        DPP(0.75, 200, DPPOptions(logit_lr=0.1)),
        optimizer=torch.optim.SGD(net.parameters(), 0.01),
    )
    g = torch.Generator().manual_seed(which)
    for _ in range(200):
        x = torch.randn(32, 4, generator=g)
        net.zero_grad()
        F.mse_loss(net.fc(x).squeeze(1), x[:, which]).backward()
        pruner.after_backward()
        pruner.state.optimizer.step()
        pruner.after_step()
    assert pruner.finish()["fc.weight"].nonzero().tolist() == [[0, which]]
    assert pruner.method.metrics()["confidence"]["fc.weight"] > 0.3


def test_the_weights_learn_as_under_autograd():
    """With all kept it is plain training; else w moves as if the network were w∘m."""
    plain, kept = make(), make()
    a, b = sgd(plain), sgd(kept)
    pruner = Pruner(kept, DPP(0.0, 4), optimizer=b)
    steps(kept, pruner, 4)
    for i in range(4):
        g = torch.Generator().manual_seed(i)
        x = torch.randn(8, 1, 8, 8, generator=g)
        y = torch.randint(0, 5, (8,), generator=g)
        a.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        a.step()
    for p, q in zip(plain.parameters(), kept.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("bits", [2, 4])
def test_weights_have_the_levels_of_their_bits(bits: int):
    net = make()
    pruner = Pruner(net, DPP(0.3, 8, DPPOptions(bits=bits)), optimizer=sgd(net))
    steps(net, pruner, 8)
    pruner.finish()
    for name in pruner.masks:
        levels = net.get_parameter(name).detach().unique()
        assert len(levels) <= 2**bits - 1
        grid = levels / levels.abs().max() * (2 ** (bits - 1) - 1)
        torch.testing.assert_close(grid, grid.round())
    assert not torch.equal(pruner.method._layers["fc.weight"].dense, net.fc.weight)


@pytest.mark.parametrize("at", [3, 8])
def test_a_loop_goes_on_where_it_was(at: int):
    """Through JSON, as a savepoint has it; before and after the last draw."""
    net = make()
    pruner = Pruner(net, DPP(0.5, 10, DPPOptions(until=0.6)), optimizer=sgd(net))
    steps(net, pruner, at)
    kept = copy.deepcopy((net.state_dict(), pruner.state.optimizer.state_dict()))
    state = copy.deepcopy(pruner.state_dict())
    plain = json.loads(json.dumps(state["method"]["adam"], default=lambda t: t.tolist()))
    for i, values in plain["state"].items():
        plain["state"][i] = {k: torch.tensor(v) for k, v in values.items()}
    state["method"]["adam"] = plain
    again = make(1)
    optimizer = sgd(again)
    other = Pruner(again, DPP(0.5, 10, DPPOptions(until=0.6)), optimizer=optimizer, begin=False)
    again.load_state_dict(kept[0])
    optimizer.load_state_dict(kept[1])
    other.load_state_dict(state)
    assert other.state_dict()["method"]["settled"] == (at == 8)
    for which in (pruner, other):
        x, y = batch(1)
        for _ in range(3):
            net_ = net if which is pruner else again
            net_.zero_grad()
            F.cross_entropy(net_(x), y).backward()
            which.after_backward()
            which.state.optimizer.step()
            which.after_step()
    assert other.finish().digest() == pruner.finish().digest()
    assert torch.equal(net.fc.weight, again.fc.weight)


def test_a_step_that_a_scaler_skips_changes_nothing():
    net = make()
    pruner = Pruner(net, DPP(0.5, 10), optimizer=sgd(net))
    steps(net, pruner, 1)
    before, masks = copy.deepcopy(net.state_dict()), pruner.masks
    for p in net.parameters():
        p.grad = torch.full_like(p, float("inf"))
    pruner.after_backward()  # and no optimizer.step()
    pruner.after_step()
    assert pruner.masks is masks
    assert pruner.step == 1
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())


def test_whole_filters_are_removed_physically():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    pruner = Pruner(
        net,
        DPP(0.6, 4, DPPOptions(granularity="filter")),
        optimizer=torch.optim.SGD(net.parameters(), 0.01),
    )
    for i in range(4):
        g = torch.Generator().manual_seed(i)
        net.zero_grad()
        net(torch.randn(4, 3, 8, 8, generator=g)).square().mean().backward()
        pruner.after_backward()
        pruner.state.optimizer.step()
        pruner.after_step()
    masks = pruner.finish()
    assert masks.n_removed == round(0.6 * masks.n_total)
    filters = masks["3.weight"].flatten(1).any(1)
    assert int(filters.sum()) == 6  # 40% of 16 is 6.4; the rest went to the linear layer
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(9)).numpy()
    _, about = compacted(to_onnx(net, nets.metadata(size=8)), {"input": x})
    assert list(about.channels.values()) == [(16, 8)]  # the next multiple of four
    assert about.error < 1e-5


def test_what_it_cannot_do_says_why():
    net = make()
    conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3))
    with pytest.raises(ConfigError, match=r"--target 0.9, granularity filter: exactly 259 of 288"):
        Pruner(conv, DPP(0.9, 9, DPPOptions(granularity="filter")), optimizer=None)
    up = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 8, 3))
    with pytest.raises(ConfigError, match=r"1.weight belongs to a transposed convolution"):
        Pruner(up, DPP(0.5, 9, DPPOptions(granularity="kernel")), optimizer=None)
    Pruner(up, DPP(0.5, 9), optimizer=None)
    with torch.no_grad():
        net.fc.weight[0] = 0
    with pytest.raises(ConfigError, match="sparse; it samples masks among all"):
        Pruner(net, DPP(0.5, 9), optimizer=None)
    with pytest.raises(ConfigError, match="bits must be 0 or at least 2, got 1"):
        DPP(0.5, 9, DPPOptions(bits=1))
    with pytest.raises(ConfigError, match="the weights of --method dpp have 4 bits"):
        PruneConfig(method="dpp", method_set={"bits": 4}, ema=0.9)
    with pytest.raises(ConfigError, match="--average-epochs averages weights"):
        PruneConfig(method="dpp", method_set={"bits": 4}, average_epochs=1, bn_images=500)
    PruneConfig(method="dpp", ema=0.9)
