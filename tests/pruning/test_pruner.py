from __future__ import annotations

import warnings

import pytest
import torch
from loops import make, sgd, steps
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from fggp_deploy import FGGP, Cubic, Magnitude, MaskSet, Pruner
from fggp_deploy.errors import ConfigError, FggpWarning, LayerCollapse, TargetBelowStart
from fggp_deploy.pruning.pruner import prunable_parameters, weight_parameters


def test_prunable_is_all_but_the_first_convolution():
    net = make()
    assert list(weight_parameters(net)) == ["conv1.weight", "conv2.weight", "fc.weight"]
    assert list(prunable_parameters(net)) == ["conv2.weight", "fc.weight"]
    assert next(iter(prunable_parameters(net, prune_first=True))) == "conv1.weight"
    assert list(prunable_parameters(net, keep_dense=["fc.*"])) == ["conv2.weight"]


def test_a_weight_that_is_computed_is_an_error():
    net = make()
    parametrizations.weight_norm(net.fc)
    with pytest.raises(
        ConfigError, match=r"fc\.weight is not a parameter but computed from others"
    ):
        Pruner(net, FGGP(), Cubic(0.5, steps=9), optimizer=sgd(net))
    parametrize.remove_parametrizations(net.fc, "weight")
    Pruner(net, FGGP(), Cubic(0.5, steps=9), optimizer=sgd(net))


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ConfigError, match="'layer9' matches no weight; the weights are: conv1"):
        prunable_parameters(make(), keep_dense=["layer9"])
    with pytest.raises(ConfigError, match="no prunable weight is left"):
        prunable_parameters(make(), keep_dense=["*"])


@pytest.mark.parametrize("criterion", [FGGP(), FGGP(rate=0.9), Magnitude()])
def test_counts_are_exact_after_every_update(criterion):
    net = make()
    schedule = Cubic(0.9, steps=20, updates=8)
    pruner = Pruner(net, criterion, schedule, optimizer=sgd(net))
    total = pruner.masks.n_total
    at = []

    def check() -> None:
        at.append(pruner.masks.n_removed)
        assert at[-1] == round(schedule.sparsity(pruner.step) * total)

    steps(net, pruner, 20, check)
    masks = pruner.finish()
    assert masks.n_removed == round(0.9 * total)
    assert all(bool((net.get_parameter(n)[~m] == 0).all()) for n, m in masks.items())


def test_removed_weights_and_their_momentum_stay_zero():
    net = make()
    pruner = Pruner(net, FGGP(), Cubic(0.8, steps=10, updates=5), optimizer=sgd(net))
    seen = [pruner.masks]

    def check() -> None:
        assert pruner.masks.is_subset_of(seen[-1])
        seen.append(pruner.masks)
        for name, mask in pruner.masks.items():
            p = net.get_parameter(name)
            assert not p[~mask].any()
            assert not pruner.state.optimizer.state[p]["momentum_buffer"][~mask].any()

    steps(net, pruner, 10, check)


def test_adam_state_is_zeroed_too():
    net = make()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    pruner = Pruner(net, FGGP(), Cubic(0.8, steps=5, updates=2), optimizer=optimizer)
    steps(net, pruner, 5)
    for name, mask in pruner.finish().items():
        state = optimizer.state[net.get_parameter(name)]
        assert not state["exp_avg"][~mask].any()
        assert not state["exp_avg_sq"][~mask].any()


def test_a_sparse_start_never_revives_a_weight():
    net = make()
    with torch.no_grad():
        for name in ("conv1.weight", "conv2.weight", "fc.weight"):
            net.get_parameter(name).view(-1)[::2] = 0
    before = MaskSet.of_nonzeros(weight_parameters(net))
    pruner = Pruner(net, FGGP(), Cubic(0.9, steps=10, start=0.5, updates=5), optimizer=sgd(net))

    def check() -> None:
        assert MaskSet.of_nonzeros(weight_parameters(net)).is_subset_of(before)

    steps(net, pruner, 10, check)
    assert pruner.finish().n_removed == round(0.9 * pruner.masks.n_total)
    assert list(pruner.state.fixed) == ["conv1.weight"]  # outside the prunable set, stays zero
    assert set(pruner.all_masks()) == {"conv1.weight", "conv2.weight", "fc.weight"}


def test_target_below_the_start_is_refused():
    net = make()
    with torch.no_grad():
        net.conv2.weight.view(-1)[:200] = 0  # of 288 + 40
    with pytest.raises(TargetBelowStart, match=r"already 60.98% sparse but --target is 0\.5"):
        Pruner(net, FGGP(), Cubic(0.5, steps=10), optimizer=sgd(net))


def test_a_layer_that_would_vanish_is_an_error_that_names_it():
    net = make()
    with torch.no_grad():
        net.fc.weight.mul_(1e-6)
    schedule = Cubic(0.9, steps=1, updates=1)
    pruner = Pruner(net, Magnitude(), schedule, optimizer=sgd(net), min_layer_density=0)
    with pytest.raises(LayerCollapse, match=r"of fc\.weight; give --min-layer-density above 0, ke"):
        steps(net, pruner, 1)
    assert pruner.masks.n_removed == 0  # nothing was half done


def test_a_step_with_infinite_gradients_postpones_the_update():
    net = make()
    pruner = Pruner(net, FGGP(), Cubic(0.5, steps=2, updates=1, end=1), optimizer=sgd(net))
    for p in net.parameters():
        p.grad = torch.full_like(p, torch.inf)
    pruner.after_backward()  # the scaler skips optimizer.step()
    pruner.after_step()
    assert (pruner.step, pruner.masks.n_removed) == (0, 0)
    steps(net, pruner, 1)
    assert pruner.finish().n_removed == round(0.5 * pruner.masks.n_total)


def test_finish_before_the_end_is_an_error():
    net = make()
    pruner = Pruner(net, FGGP(), Cubic(0.5, steps=10, updates=2), optimizer=sgd(net))
    steps(net, pruner, 4)
    with pytest.raises(ConfigError, match=r"train to its end and call after_backward\(\)"):
        pruner.finish()


def test_one_warning_when_the_rate_cannot_offer_enough():
    net = make()
    pruner = Pruner(net, FGGP(rate=0.1), Cubic(0.9, steps=4, updates=2), optimizer=sgd(net))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        steps(net, pruner, 4)
    ours = [str(w.message) for w in seen if issubclass(w.category, FggpWarning)]
    assert len(ours) == 1
    assert "update at step 2" in ours[0]
    assert "rate 0.1 offers only" in ours[0]


def test_a_criterion_needs_a_schedule():
    net = make()
    with pytest.raises(ConfigError, match="needs a schedule"):
        Pruner(net, FGGP(), optimizer=sgd(net))


def test_a_shared_weight_is_counted_once():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

    assert list(prunable_parameters(Tied())) == ["a.weight"]


def test_the_optimizer_of_another_model_is_refused():
    with pytest.raises(
        ConfigError, match=r"does not hold the parameter conv2\.weight; pass an optimizer of this"
    ):
        Pruner(make(), FGGP(), Cubic(0.9, steps=5), optimizer=sgd(make()))
