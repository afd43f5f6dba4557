"""AC/DC: its phases, its limit, and that weights come back from zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import make, sgd, steps

from fggp_deploy import FGGP, Magnitude, Pruner
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.methods.acdc import ACDC, Phases
from fggp_deploy.pruning.methods.gradual import Gradual
from fggp_deploy.pruning.schedules import OneShot


def run(method, n: int = 20) -> list[str]:
    """The masks after each of n steps of a small network."""
    net = make()
    pruner = Pruner(net, method, optimizer=sgd(net))
    digests: list[str] = []
    steps(net, pruner, n, lambda: digests.append(pruner.masks.digest()))
    pruner.finish()
    return digests


def test_phases_of_twenty_steps():
    phases = Phases(0.8, steps=20, warm_up=0.1, last=0.25, cycles=2)
    # dense 1 2, then thirteen steps in four phases from 3 on, then 16 to 20
    assert phases.compressions == (3, 9, 16)
    assert phases.decompressions == (6, 13)
    compressed = [t for t in range(1, 21) if phases.sparsity(t) == 0.8]
    assert compressed == [3, 4, 5, 9, 10, 11, 12, 16, 17, 18, 19, 20]


@given(st.integers(4, 60), st.floats(0, 0.4), st.floats(0.01, 0.5), st.integers(0, 12))
def test_phases_alternate_and_end_compressed(n: int, warm_up: float, last: float, cycles: int):
    phases = Phases(0.9, n, warm_up=warm_up, last=last, cycles=cycles)
    changes = sorted(phases.compressions + phases.decompressions)
    assert changes == sorted(set(changes))
    assert len(phases.compressions) == len(phases.decompressions) + 1
    assert changes[-1] == phases.last_update <= n
    assert phases.sparsity(n) == 0.9


def test_one_compressed_phase_is_one_shot_magnitude_pruning():
    phases = Phases(0.8, steps=20, last=0.5, cycles=0)
    assert phases.last_update == 11
    assert run(ACDC(Magnitude(), phases)) == run(Gradual(Magnitude(), OneShot(0.8, at=11)))


@pytest.mark.parametrize("criterion", [Magnitude(), FGGP(0.5)])
def test_weights_come_back_from_zero_without_momentum(criterion):
    net = make()
    optimizer = sgd(net)
    phases = Phases(0.75, steps=20, warm_up=0.1, last=0.25, cycles=2)
    pruner = Pruner(net, ACDC(criterion, phases), optimizer=optimizer)
    removed, seen = {}, []

    def look() -> None:
        seen.append(pruner.masks.n_removed)
        if pruner.step == 5:  # the last step of a compressed phase
            removed.update({n: ~m for n, m in pruner.masks.items()})
            for name, gone in removed.items():
                p = net.get_parameter(name)
                assert bool((p[gone] == 0).all())
                assert bool((optimizer.state[p]["momentum_buffer"][gone] == 0).all())
        if pruner.step == 6:
            moved = [bool((net.get_parameter(n)[gone] != 0).any()) for n, gone in removed.items()]
            assert any(moved)

    steps(net, pruner, 20, look)
    n = round(0.75 * pruner.masks.n_total)
    assert seen == [0] * 2 + [n] * 3 + [0] * 3 + [n] * 4 + [0] * 3 + [n] * 5
    assert pruner.finish().n_removed == n


def test_zeros_that_the_network_came_with_stay_zero():
    net = make()
    zeros = {}
    for name, p in net.named_parameters():
        if p.ndim > 1:
            p.data[:, 0] = 0
            zeros[name] = p.detach() == 0
    pruner = Pruner(net, ACDC(Magnitude(), Phases(0.8, 20, 0.5, cycles=2)), optimizer=sgd(net))
    steps(net, pruner, 20, lambda: None)
    for name in pruner.finish():
        assert bool((net.get_parameter(name)[zeros[name]] == 0).all())


def test_phases_that_leave_no_step_are_refused():
    with pytest.raises(ConfigError, match=r"warm_up 0\.8 and last 0\.5 leave no step between"):
        Phases(0.9, steps=10, warm_up=0.8, last=0.5)
