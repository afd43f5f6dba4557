"""What an error of pruning advises is done, and then it works."""

from __future__ import annotations

import re

import pytest
import torch
from loops import make, sgd, steps
from torch import nn

from fggp_deploy import FGGP, Cubic, Magnitude, Pruner
from fggp_deploy.errors import ConfigError, LayerCollapse, TargetBelowStart
from fggp_deploy.pruning import methods
from fggp_deploy.pruning.schedules import OneShot
from fggp_deploy.training.config import PruneConfig


def half_sparse() -> nn.Module:
    net = make()
    with torch.no_grad():
        net.conv2.weight.view(-1)[:200] = 0  # of 288 + 40
    return net


def number(pattern: str, error: BaseException) -> float:
    found = re.search(pattern, str(error))
    assert found is not None
    return float(found[1])


def test_a_target_above_the_start():
    net = half_sparse()
    with pytest.raises(TargetBelowStart) as e:
        Pruner(net, FGGP(), Cubic(0.5, steps=10), optimizer=sgd(net))
    above = number(r"give a target above ([\d.]+)$", e.value)
    Pruner(net, FGGP(), Cubic(above + 0.001, steps=10), optimizer=sgd(net))


def test_the_target_that_moving_masks_have():
    with pytest.raises(ConfigError) as e:
        Pruner(half_sparse(), methods.make("rigl", 0.9, steps=10), optimizer=None)
    target = number(r"give --target ([\d.]+)$", e.value)
    pruner = Pruner(half_sparse(), methods.make("rigl", target, steps=10), optimizer=None)
    assert pruner.masks.n_removed == 200


@pytest.mark.filterwarnings("ignore:update at step")
@pytest.mark.parametrize(
    "remedy", [{"min_layer_density": 1e-9}, {"min_layer_density": 0, "keep_dense": ["fc.weight"]}]
)
def test_a_layer_that_would_be_emptied(remedy: dict):
    def prune(**options) -> Pruner:
        net = make()
        with torch.no_grad():
            net.fc.weight.mul_(1e-6)
        pruner = Pruner(net, Magnitude(), OneShot(0.8), optimizer=sgd(net), **options)
        steps(net, pruner, 1)
        return pruner

    with pytest.raises(
        LayerCollapse, match="give --min-layer-density above 0, keep it with --keep-d"
    ):
        prune(min_layer_density=0)
    assert not prune(**remedy).masks.empty_layers()


def test_a_target_that_leaves_too_few_weights():
    with pytest.raises(LayerCollapse) as e:
        Pruner(make(), FGGP(), Cubic(0.9999, steps=10), optimizer=None)
    target = number(r"give a target of at most ([\d.]+)$", e.value)
    Pruner(make(), FGGP(), Cubic(target, steps=10), optimizer=None)


def test_a_floor_that_the_target_leaves_room_for():
    with pytest.raises(ConfigError) as e:
        PruneConfig(target=0.987, min_layer_density=0.5)
    PruneConfig(target=0.987, min_layer_density=number(r"give at most ([\d.]+)$", e.value))


def test_a_sparsity_that_whole_units_can_meet():
    def kernels(target: float) -> Pruner:
        method = methods.make("dpp", target, steps=10, granularity="kernel")
        return Pruner(make(), method, optimizer=None, keep_dense=["fc.weight"])

    with pytest.raises(ConfigError) as e:
        kernels(0.51)
    near = number(r"nearby sparsity ([\d.]+) is possible$", e.value)
    assert kernels(near).masks.n_removed == round(near * 288)
