from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.schedules import Constant, Cubic, OneShot


def test_cubic_by_hand():
    s = Cubic(target=0.8, steps=10, updates=4)  # end = 8, updates at 2, 4, 6, 8
    assert s.update_steps == (2, 4, 6, 8)
    assert s.sparsity(1) == 0
    assert s.sparsity(4) == pytest.approx(0.8 * (1 - 0.5**3))
    assert s.sparsity(5) == s.sparsity(4)
    assert s.sparsity(8) == s.sparsity(10) == 0.8


def test_cubic_from_a_sparse_start():
    s = Cubic(target=0.9, steps=10, start=0.5, updates=2)
    assert s.sparsity(0) == 0.5
    assert s.sparsity(4) == pytest.approx(0.9 - 0.4 * 0.125)


@given(
    steps=st.integers(1, 400),
    updates=st.integers(1, 100),
    target=st.floats(0.01, 0.999),
)
def test_cubic_ends_exactly_on_the_target(steps: int, updates: int, target: float):
    s = Cubic(target=target, steps=steps, updates=updates)
    curve = [s.sparsity(t) for t in range(steps + 1)]
    assert curve[s.last_update] == target
    assert curve == sorted(curve)
    assert s.is_update(s.last_update)
    assert sum(s.is_update(t) for t in range(steps + 1)) == len(s.update_steps)
    assert len(s.update_steps) == min(updates, s.last_update) or updates > s.last_update // 2


@pytest.mark.parametrize(
    "bad",
    [
        {"target": 1.0, "steps": 10},
        {"target": -0.1, "steps": 10},
        {"target": 0.5, "steps": 10, "start": 0.6},
        {"target": 0.5, "steps": 0},
        {"target": 0.5, "steps": 10, "updates": 0},
        {"target": 0.5, "steps": 10, "begin": 9},
        {"target": 0.5, "steps": 10, "end": 11},
    ],
)
def test_cubic_is_checked_when_made(bad: dict):
    with pytest.raises(ConfigError):
        Cubic(**bad)


def test_constant_and_one_shot():
    assert not any(Constant(0.5).is_update(t) for t in range(9))
    s = OneShot(0.9, at=3)
    assert [s.is_update(t) for t in (2, 3, 4)] == [False, True, False]
    assert [s.sparsity(t) for t in (2, 3, 4)] == [0, 0.9, 0.9]
