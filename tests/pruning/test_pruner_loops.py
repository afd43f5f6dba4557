"""Pruner in loops with several optimizers, accumulated gradients and a loss scaler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loops import batch, make
from torch import Tensor, nn

from fggp_deploy import FGGP, Cubic, MaskSet, Pruner

STEPS = 6
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "sgd nesterov fused": lambda p: torch.optim.SGD(p, 0.05, 0.9, nesterov=True, fused=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
    "nadam": lambda p: torch.optim.NAdam(p, 1e-2),
    "radam": lambda p: torch.optim.RAdam(p, 1e-2),
    "adamax": lambda p: torch.optim.Adamax(p, 1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p, 1.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.9, centered=True),
    "rprop": lambda p: torch.optim.Rprop(p, 1e-2),
    "asgd": lambda p: torch.optim.ASGD(p, 1e-2, t0=0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_removed_weights_have_no_state_in_any_optimizer(name: str):
    net = make()
    optimizer = OPTIMIZERS[name](net.parameters())
    pruner = Pruner(net, FGGP(), Cubic(0.8, steps=STEPS, updates=3), optimizer=optimizer)
    seen, before = 0, pruner.masks
    for step in range(STEPS):
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        pruner.after_backward()
        optimizer.step()
        pruner.after_step()
        assert pruner.masks.is_subset_of(before)
        before = pruner.masks
        for layer, mask in pruner.masks.items():
            p = net.get_parameter(layer)
            assert not p[~mask].any()
            for value in optimizer.state[p].values():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    seen += 1
                    assert not value[~mask].any()
                    assert torch.isfinite(value).all()
    assert seen >= 2 * STEPS  # two layers, at least one state each
    assert pruner.finish().n_removed == round(0.8 * before.n_total)


class Given(nn.Module):
    """A linear layer whose gradient is the sum over what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.fc = nn.Linear(10, 10)
        with torch.no_grad():
            self.fc.weight.copy_(torch.randint(1, 9, (10, 10), generator=g) / 8)

    def loss(self, grads: Tensor) -> Tensor:
        return sum((self.fc.weight * g).sum() for g in grads) + self.fc.bias.sum()


def gradients(step: int) -> Tensor:
    """Four micro-batches' gradients, small integers, so that sums and powers of two are exact."""
    g = torch.Generator().manual_seed(step)
    return torch.randint(-9, 10, (4, 10, 10), generator=g).float()


def digests(step_of: Any, **options: Any) -> list[str]:
    """The masks after each step of `step_of(net, pruner, optimizer, gradients)`."""
    net = Given()
    optimizer = torch.optim.SGD(net.parameters(), lr=2**-7, **options)
    pruner = Pruner(net, FGGP(), Cubic(0.6, steps=3, updates=3, end=3), optimizer=optimizer)
    out = []
    for step in range(3):
        optimizer.zero_grad()
        step_of(net, pruner, optimizer, gradients(step))
        out.append(pruner.masks.digest())
    assert pruner.step == 3
    assert pruner.finish().n_removed == 60
    return out


def plain(net: Given, pruner: Pruner, optimizer: torch.optim.Optimizer, grads: Tensor) -> None:
    net.loss(grads).backward()
    pruner.after_backward()
    optimizer.step()
    pruner.after_step()


def accumulated(net: Given, pruner: Pruner, optimizer: torch.optim.Optimizer, grads: Tensor):
    for micro in grads:
        (net.loss(micro[None]) - 0.75 * net.fc.bias.sum()).backward()
    pruner.after_backward()
    optimizer.step()
    pruner.after_step()


def test_accumulated_gradients_choose_as_the_whole_batch_does():
    assert digests(accumulated) == digests(plain)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscaled", [False, True])
def test_a_scaled_loss_chooses_as_the_loss_does(fused: bool, unscaled: bool):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def scaled(net: Given, pruner: Pruner, optimizer: torch.optim.Optimizer, grads: Tensor):
        scaler.scale(net.loss(grads)).backward()
        if unscaled:
            scaler.unscale_(optimizer)
        pruner.after_backward()
        scaler.step(optimizer)
        scaler.update()
        pruner.after_step()

    assert digests(scaled, fused=fused) == digests(plain)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("where", ["fc.weight", "fc.bias"])
@pytest.mark.parametrize("what", [torch.inf, torch.nan])
def test_a_step_that_the_scaler_skips_updates_nothing(
    fused: bool, where: str, what: float, monkeypatch
):
    def garbage(like: Tensor, **options) -> Tensor:  # which memory that is not set may hold
        return torch.full_like(like, torch.nan if like.is_floating_point() else 0, **options)

    monkeypatch.setattr(torch, "empty_like", garbage)
    net = Given()
    optimizer = torch.optim.SGD(net.parameters(), lr=2**-7, momentum=0.5, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    pruner = Pruner(net, FGGP(), Cubic(0.6, steps=3, updates=3, end=3), optimizer=optimizer)
    removed = []
    for step, broken in enumerate([True, False, True, False, False]):
        before: dict[str, Tensor] = {n: p.detach().clone() for n, p in net.named_parameters()}
        masks: MaskSet = pruner.masks
        optimizer.zero_grad()
        scaler.scale(net.loss(gradients(step))).backward()
        if broken:
            net.get_parameter(where).grad.view(-1)[3] = what  # a garbage gradient elsewhere is one
        pruner.after_backward()
        scaler.step(optimizer)
        scaler.update()
        pruner.after_step()
        if broken:
            assert pruner.masks is masks
            assert all(torch.equal(before[n], p) for n, p in net.named_parameters())
        assert all(p.isfinite().all() for p in net.parameters())
        removed.append((pruner.step, pruner.masks.n_removed))
        assert not net.fc.weight[~pruner.masks["fc.weight"]].any()
    schedule = Cubic(0.6, steps=3, updates=3, end=3)
    at = [round(100 * schedule.sparsity(t)) for t in (0, 1, 2, 3)]
    assert removed == [(0, 0), (1, at[1]), (1, at[1]), (2, at[2]), (3, 60)]
