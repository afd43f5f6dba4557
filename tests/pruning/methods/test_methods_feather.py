"""Feather: values that can be verified by hand, and its limits."""

from __future__ import annotations

import pytest
import torch
from loops import make, sgd, steps
from torch import nn

from fggp_deploy import Cubic, Pruner
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.methods.feather import Feather, shrink
from fggp_deploy.pruning.schedules import Constant


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        (1.0, [-3.0, 0.0, 0.0, 2.0]),  # soft: |w| − 2
        (2.0, [-(21**0.5), 0.0, 0.0, 12**0.5]),  # √(25 − 4), √(16 − 4)
        (3.0, [-(117 ** (1 / 3)), 0.0, 0.0, 56 ** (1 / 3)]),
        (float("inf"), [-5.0, 0.0, 0.0, 4.0]),  # hard
    ],
)
def test_threshold_functions(power: float, expected: list[float]):
    w = torch.tensor([-5.0, 2.0, -1.0, 4.0])
    assert shrink(w, 2.0, power).tolist() == pytest.approx(expected, rel=1e-6)
    assert shrink(w, 0.0, power).tolist() == w.tolist()


def test_large_weights_do_not_overflow():
    assert shrink(torch.tensor([1e30]), 1e-30, 1.0).item() == pytest.approx(1e30)
    assert shrink(torch.tensor([3e12]), 1.0, 3.0).item() == pytest.approx(3e12)


def linear(*weights: float) -> nn.Module:
    net = nn.Linear(len(weights), 1, bias=False)
    net.weight.data = torch.tensor([weights])
    return net


def test_two_steps_by_hand():
    net = linear(4.0, 3.0, 1.0, 2.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    method = Feather(Constant(0.5), 2, power=1.0, theta=0.5, every=1)
    pruner = Pruner(net, method, optimizer=optimizer, prune_first=True)

    def step(*gradient: float) -> list[float]:
        net.weight.grad = torch.tensor([gradient], dtype=torch.float32)
        pruner.after_backward()
        optimizer.step()
        pruner.after_step()
        return net.weight.tolist()[0]

    # w = 4 3 1 2 minus the gradient 1 0 -2 0 is 3 3 3 2; of equal ones the first goes: T = 3
    assert step(1, 0, -2, 0) == [0, 0, 0, 0]
    assert pruner.masks["weight"].tolist() == [[False, True, True, False]]
    # gradients of weights 0 and 3 count half: 3 3 3 2 becomes 5 3 2 2, T = 2
    assert step(-4, 0, 1, 0) == [3, 1, 0, 0]
    assert pruner.finish()["weight"].tolist() == [[True, True, False, False]]


def test_weights_below_the_threshold_do_not_move_if_theta_is_zero():
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    method = Feather(Cubic(0.8, steps=20, updates=8), 20, power=float("inf"), theta=0.0, every=1)
    pruner = Pruner(net, method, optimizer=optimizer)
    earlier: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def look() -> None:
        for name, w in method.state_dict()["dense"].items():
            if name in earlier:
                before, mask = earlier[name]
                assert torch.equal(w[~mask], before[~mask])
            earlier[name] = w.clone(), pruner.masks[name]

    steps(net, pruner, 20, look)
    assert pruner.finish().n_removed == round(0.8 * pruner.masks.n_total)


def test_weights_come_back():
    net = make()
    pruner = Pruner(net, Feather(Cubic(0.8, 20, updates=8), 20, every=3), optimizer=sgd(net))
    earlier, back = dict(pruner.masks), []

    def look() -> None:
        back.append(any(bool((m & ~earlier[n]).any()) for n, m in pruner.masks.items()))
        earlier.update(pruner.masks)

    steps(net, pruner, 20, look)
    assert any(back)
    masks = pruner.finish()
    assert masks.n_removed == round(0.8 * masks.n_total)
    for name, mask in masks.items():
        assert bool((net.get_parameter(name)[~mask] == 0).all())


def test_the_mask_is_fixed_after_its_last_update():
    net = make()
    pruner = Pruner(net, Feather(Cubic(0.8, 20, updates=8), 17), optimizer=sgd(net))
    digests: list[str] = []
    steps(net, pruner, 20, lambda: digests.append(pruner.masks.digest()))
    assert len(set(digests[16:])) == 1
    assert len(set(digests[:16])) > 8


def test_a_mask_fixed_before_the_schedule_ends_is_refused():
    with pytest.raises(ConfigError, match="fixed at step 5, before the schedule ends at step 16"):
        Feather(Cubic(0.8, 20), 5)
    net = make()
    pruner = Pruner(net, Feather(Cubic(0.8, 20), 20), optimizer=sgd(net))
    with pytest.raises(ConfigError, match="the masks are fixed at step 20; train to it"):
        pruner.finish()
