"""Pruning in blocks of input channels: answers in the head, laws, resumption, the command."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import make, sgd, steps
from torch import Tensor, nn

from fggp_deploy import FGGP, Cubic, Magnitude, MaskSet, Pruner
from fggp_deploy.errors import ConfigError, LayerCollapse, UnknownName
from fggp_deploy.pruning.allocation import Given
from fggp_deploy.pruning.criteria import Criterion
from fggp_deploy.pruning.methods import BUILT_IN, Task, info
from fggp_deploy.pruning.methods.ablations import MagnitudeFirst, RankCriterion, Widened
from fggp_deploy.pruning.methods.dpp import DPP
from fggp_deploy.pruning.methods.gradual import Gradual
from fggp_deploy.pruning.methods.parts.blocks import Blocking, InBlocks, most_blocks, of_inputs
from fggp_deploy.pruning.patterns import PATTERNS


def linear(rows: int, inputs: int, width: int = 4) -> Blocking:
    return Blocking((rows, inputs), 1, width)


W = torch.tensor([[1, -1, 1, -1, 3, 0, 0, 0], [0, 0, 0, 6, -1, -1, -1, -2]]) / 4
G = torch.tensor([[9, 9, 9, 9, 1, 1, 1, 1], [2, 2, 2, 2, 3, -3, 3, -3]]) / 4
# sums of a block, times four:  |w| 4 3 6 5,  |g| 36 4 8 12


@pytest.mark.parametrize(
    ("criterion", "n_drop", "gone"),
    [
        (Magnitude(), 4, [1]),
        (Magnitude(), 8, [0, 1]),
        (Magnitude(), 11, [0, 1]),  # a third block would be one too many
        (Magnitude(), 3, []),
        (FGGP(0.5), 4, [1]),  # of 1 and 2 the smaller |w|
        (FGGP(0.75), 8, [1, 3]),  # of 1, 2 and 3
        (FGGP(0.25), 8, [1, 2]),  # too few candidates: |g| alone
        (MagnitudeFirst(0.5), 4, [1]),  # of 0 and 1 the smaller |g|
        (MagnitudeFirst(1.0), 8, [1, 2]),
        (RankCriterion("sum"), 4, [1]),  # 6 2 6 6
    ],
)
def test_which_of_four_blocks_go(criterion: Criterion, n_drop: int, gone: list[int]):
    alive = torch.ones(16, dtype=torch.bool)
    found = InBlocks(criterion, [linear(2, 8)]).drop(W.view(-1), G.view(-1), alive, n_drop)
    assert found.tolist() == [4 * block + i for block in gone for i in range(4)]


def test_a_block_is_four_inputs_at_one_kernel_position():
    weight = torch.arange(2 * 6 * 3 * 3).view(2, 6, 3, 3)
    blocking = of_inputs(weight, nn.Conv2d(6, 2, 3), 4)
    kept = torch.zeros(2 * 2 * 9, dtype=torch.bool)
    kept[18 + 9 + 5] = True  # the second output, the second block of inputs, position (1, 2)
    assert weight[blocking.spread(kept)].tolist() == weight[1, 4:6, 1, 2].tolist()
    kept = torch.zeros(2 * 2 * 9, dtype=torch.bool)
    kept[3] = True
    assert weight[blocking.spread(kept)].tolist() == weight[0, 0:4, 1, 0].tolist()


def test_blocks_of_other_layers():
    grouped = nn.Conv2d(12, 4, 1, groups=2)  # six inputs a group: a block of four, one of two
    blocks = of_inputs(grouped.weight, grouped, 4)
    assert blocks.sums(torch.ones(4, 6, 1, 1)).tolist() == [4, 2] * 4
    depthwise = nn.Conv2d(8, 8, 3, groups=8)
    blocks = of_inputs(depthwise.weight, depthwise, 4)
    assert blocks.sums(torch.ones(8, 1, 3, 3)).tolist() == [1] * 72
    line = nn.Conv1d(5, 2, 3)
    assert (
        of_inputs(line.weight, line, 4).sums(torch.ones(2, 5, 3)).tolist()
        == [4] * 3 + [1] * 3 + [4] * 3 + [1] * 3
    )
    up = nn.ConvTranspose2d(8, 4, 1, groups=2)  # a weight [8 inputs, 2 outputs of a group, 1, 1]
    numbers = torch.arange(16).view(8, 2, 1, 1)
    # inputs 0-3 and 4-7, to the first and to the second output of their group
    assert of_inputs(up.weight, up, 4).cut(numbers).tolist() == [
        [0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15],
    ]  # fmt: skip


def test_short_and_half_gone_blocks_count_what_is_alive():
    blocking = linear(1, 10)  # blocks of 4, 4 and 2
    w = torch.tensor([2.0, 2, 2, 2, 9, 1, 9, 1, 1.5, 1.5])
    alive = torch.ones(10, dtype=torch.bool)
    alive[[4, 6]] = False  # of the second block two weights of 1 are left, a mean of 1
    choose = InBlocks(Magnitude(), [blocking])
    assert choose.drop(w, None, alive, 2).tolist() == [5, 7]
    assert choose.drop(w, None, alive, 3).tolist() == [5, 7]
    assert choose.drop(w, None, alive, 4).tolist() == [5, 7, 8, 9]  # means 1 and 1.5
    assert choose.drop(w, None, alive, 7).tolist() == [5, 7, 8, 9]
    assert choose.drop(w, None, alive, 8).tolist() == [0, 1, 2, 3, 5, 7, 8, 9]
    g = torch.where(alive, 1.0, 1e6)  # what is gone has a gradient, which has no say
    assert choose.drop(g, None, alive, 4).tolist() == [0, 1, 2, 3]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Blocking, Tensor, Tensor, Tensor, int]:
    """A weight [rows, inputs, taps] of any width of blocks, with many ties and maybe zeros."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 11), st.integers(1, 3)))
    width = draw(st.sampled_from([2, 4, 8]))
    n = torch.Size(shape).numel()
    numbers = st.lists(st.integers(-4, 4), min_size=n, max_size=n)
    w, g = (torch.tensor(draw(numbers), dtype=torch.float32) for _ in "wg")
    alive = torch.ones(n, dtype=torch.bool)
    if draw(st.booleans()):
        alive = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    blocking = Blocking(shape, 1, width, taps=shape[2])
    return blocking, w, g, alive, draw(st.integers(0, int(alive.sum())))


NESTED = (
    Magnitude(), FGGP(0.3), FGGP(1.0), MagnitudeFirst(0.5), Widened("gradient", 0.4),
    RankCriterion("product"),
)  # fmt: skip


@given(problems())
@settings(max_examples=80, deadline=None)
def test_blocks_go_whole_and_the_next_would_be_too_much(problem):
    blocking, w, g, alive, n = problem
    for criterion in NESTED:
        gone = torch.zeros_like(alive)
        gone[InBlocks(criterion, [blocking]).drop(w, g, alive, n)] = True
        assert not (gone & ~alive).any()
        assert int(gone.sum()) <= n
        left, lost = (blocking.cut(t.view(blocking.shape)) for t in (alive & ~gone, gone))
        assert not (left.any(1) & lost.any(1)).any()  # no block loses some of what it has
        n_left = n - int(gone.sum())
        assert n_left < blocking.width
        if alive.all() and blocking.seen_as[1] % blocking.width == 0:
            assert n_left == n % blocking.width


@given(problems())
@settings(max_examples=80, deadline=None)
def test_laws_of_blocks(problem):
    blocking, w, g, alive, n = problem
    single = [Blocking(blocking.shape, 1, 1, taps=blocking.taps)]
    for criterion in NESTED:  # blocks of one weight are weights
        found = InBlocks(criterion, single).drop(w, g, alive, n)
        assert found.tolist() == sorted(criterion.drop(w, g, alive, n).tolist())
    blocks = [blocking]
    by_magnitude = InBlocks(Magnitude(), blocks).drop(w, None, alive, n)
    assert InBlocks(FGGP(1.0), blocks).drop(w, g, alive, n).tolist() == by_magnitude.tolist()
    assert torch.equal(blocking.sums(w), blocking.cut(w.view(blocking.shape)).sum(1))
    values = torch.arange(blocking.n_blocks)
    spread = blocking.spread(values)
    real = blocking.cut(torch.ones(blocking.shape, dtype=torch.bool))
    assert torch.equal(blocking.cut(spread), values.unsqueeze(1) * real)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
@settings(max_examples=150, deadline=None)
def test_the_search_finds_the_most_blocks_that_fit(sizes: list[int], data: st.DataObject):
    order = [i for i, size in enumerate(sizes) if size]
    n_weights = data.draw(st.integers(0, sum(sizes)))
    fits = [n for n in range(len(order) + 1) if sum(sizes[i] for i in order[:n]) <= n_weights]
    calls = []

    def drop(n: int) -> Tensor:
        calls.append(n)
        return torch.tensor(order[:n], dtype=torch.int64)

    assert (
        most_blocks(drop, torch.tensor(sizes, dtype=torch.uint8), n_weights).tolist()
        == (order[: max(fits)])
    )
    assert len(calls) == 1 or len({size for size in sizes if size}) > 1


def is_in_blocks(net: nn.Module, before: MaskSet, masks: MaskSet) -> bool:
    """Whether every block has lost all that it had, or nothing."""
    modules = {f"{n}.weight": m for n, m in net.named_modules()}
    blocks = {n: of_inputs(m, modules[n], 4) for n, m in masks.items()}
    lost = masks.dropped_since(before)
    return not any(
        (b.cut(masks[n]).any(1) & b.cut(lost[n]).any(1)).any() for n, b in blocks.items()
    )


@pytest.mark.parametrize(
    "allocation", ["global", "uniform", "erk", Given({"conv2.weight": 0.2, "fc.weight": 0.6})]
)
@pytest.mark.parametrize("criterion", [FGGP(), Magnitude()])
def test_a_run_is_exact_where_blocks_are_full(criterion: Criterion, allocation: str | Given):
    net = make()  # 288 and 40 weights, all in blocks of four
    schedule = Cubic(0.75, steps=20, updates=8)
    method = Gradual(criterion, schedule, allocation=allocation, pattern="1x4")
    pruner = Pruner(net, method, optimizer=sgd(net))
    dense = pruner.masks

    def check() -> None:
        want = round(schedule.sparsity(pruner.step) * 328)
        assert pruner.masks.n_removed == want // 4 * 4
        assert is_in_blocks(net, dense, pruner.masks)

    steps(net, pruner, 20, check)
    assert pruner.finish().n_removed == 246 // 4 * 4 == 244
    assert all(not net.get_parameter(n)[~m].any() for n, m in pruner.masks.items())


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_a_sparse_start_keeps_its_zeros_and_ends_within_a_block(allocation: str):
    net = make()
    with torch.no_grad():
        for name in ("conv2.weight", "fc.weight"):
            p = net.get_parameter(name)
            p.masked_fill_(torch.rand(p.shape) < 0.5, 0)
    schedule = Cubic(0.8, steps=10, start=0.5, updates=4)
    method = Gradual(FGGP(), schedule, allocation=allocation, pattern="1x4")
    pruner = Pruner(net, method, optimizer=sgd(net))
    start = pruner.masks

    def check() -> None:
        if pruner.step >= schedule.update_steps[0]:
            missing = round(schedule.sparsity(pruner.step) * 328) - pruner.masks.n_removed
            assert 0 <= missing < 4
        assert pruner.masks.is_subset_of(start)
        assert is_in_blocks(net, start, pruner.masks)

    steps(net, pruner, 10, check)
    pruner.finish()


def test_masks_stay_where_no_block_fits():
    net = make()
    schedule = Cubic(0.005, steps=4, updates=2)  # two of 328 weights
    pruner = Pruner(net, FGGP(), schedule, pattern="1x4", optimizer=sgd(net))
    before = pruner.masks
    steps(net, pruner, 4)
    assert pruner.finish() is before
    assert pruner.changed_at == 0


def test_finish_before_the_end_is_still_an_error():
    net = make()
    schedule = Cubic(0.5, steps=10, updates=2)
    pruner = Pruner(net, FGGP(), schedule, pattern="1x4", optimizer=sgd(net))
    steps(net, pruner, 4)
    with pytest.raises(
        ConfigError, match="with 164 weights removed, but only 144 are; train to its"
    ):
        pruner.finish()


def test_a_layer_that_would_lose_all_its_blocks_is_named():
    net = make()
    with torch.no_grad():
        net.fc.weight.mul_(1e-6)
    pruner = Pruner(
        net, Magnitude(), Cubic(0.9, steps=1, updates=1), pattern="1x4", optimizer=sgd(net),
        min_layer_density=0,
    )  # fmt: skip
    with pytest.raises(LayerCollapse, match=r"every weight of fc\.weight"):
        steps(net, pruner, 1)


def test_a_loop_goes_on_where_it_was():
    def pruned(net: nn.Module) -> Pruner:
        return Pruner(
            net, FGGP(), Cubic(0.8, steps=10, updates=5), pattern="1x4", optimizer=sgd(net)
        )

    net, again = make(), make(1)
    pruner, other = pruned(net), pruned(again)
    steps(net, pruner, 3)
    again.load_state_dict(copy.deepcopy(net.state_dict()))
    optimizer = other.state.optimizer
    optimizer.load_state_dict(copy.deepcopy(pruner.state.optimizer.state_dict()))
    other.load_state_dict(copy.deepcopy(pruner.state_dict()))
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 5
    for which, trained in ((pruner, net), (other, again)):
        for _ in range(7):
            trained.zero_grad()
            F.cross_entropy(trained(x), y).backward()
            which.after_backward()
            which.state.optimizer.step()
            which.after_step()
    assert other.finish().digest() == pruner.finish().digest()


def test_other_patterns_and_other_methods_are_refused():
    net = make()
    assert list(PATTERNS) == ["1x2", "1x4", "1x8", "1x16"]
    with pytest.raises(UnknownName, match=r"unknown pattern '4x1'; .*known: 1x16, 1x2, 1x4, 1x8"):
        Pruner(net, FGGP(), Cubic(0.5, steps=9), pattern="4x1", optimizer=sgd(net))
    with pytest.raises(ConfigError, match="Pruner takes `pattern` only with a criterion"):
        Pruner(net, DPP(0.5, 9), pattern="1x4", optimizer=sgd(net))
    reads = [name for name in BUILT_IN if "pattern" in info(name).reads]
    assert reads == [
        "fggp", "gmp", "magnitude-first", "magnitude-first-annealed", "gradient-first-annealed",
        "rank-sum", "rank-product", "mean-gradient", "acdc",
    ]  # fmt: skip
    task = Task(
        target=0.5, schedule=Cubic(0.5, steps=9), n_steps=9, steps_per_epoch=9, updates=3,
        rate=0.5, seed=0, input_shape=(1, 8, 8), batches=lambda n: [], pattern="1x4",
    )  # fmt: skip
    assert {info(name).make(info(name).options(), task).width for name in reads} == {4}
