from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fggp_deploy.errors import ConfigError
from fggp_deploy.models import build
from fggp_deploy.pruning.allocation import erk, uniform
from fggp_deploy.pruning.pruner import weight_parameters

shape = st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]))


def test_uniform_by_hand():
    assert uniform({"a": (10, 10), "b": (2, 5)}, 0.9) == {"a": 10, "b": 1}


def test_erk_by_hand():
    # raw: a (4+4)/16 = .5, b (2+2)/4 = 1; budget 10 = ε(.5·16 + 1·4) → ε = 5/6
    assert erk({"a": (4, 4), "b": (2, 2)}, 0.5) == {"a": 7, "b": 3}


def test_erk_of_vgg19_at_half_is_the_published_one():
    model = build("vgg19", num_classes=10, in_channels=3)
    shapes = {n: tuple(p.shape) for n, p in weight_parameters(model).items()}
    keep = erk(shapes, 0.5)
    density = [keep[n] / p.numel() for n, p in weight_parameters(model).items()]
    assert density[:5] == [1.0] * 5
    assert density[5:8] == pytest.approx([0.87] * 3, abs=0.005)
    assert density[8] == pytest.approx(0.65, abs=0.005)
    assert density[9:16] == pytest.approx([0.433] * 7, abs=0.001)
    assert density[16] == 1.0


@given(shapes=st.lists(shape, min_size=1, max_size=6), sparsity=st.floats(0, 0.99))
def test_totals_are_exact_and_no_layer_is_overfull(shapes: list, sparsity: float):
    named = {str(i): (s[0], s[1], s[2], s[2]) for i, s in enumerate(shapes)}
    size = {n: s[0] * s[1] * s[2] * s[3] for n, s in named.items()}
    total = sum(size.values())
    for allocate in (erk, uniform):
        keep = allocate(named, sparsity)
        assert sum(keep.values()) == total - round(sparsity * total)
        assert all(0 <= keep[n] <= size[n] for n in named)


def test_bad_sparsity_and_empty_network():
    with pytest.raises(ConfigError, match="must be in"):
        erk({"a": (2, 2)}, 1.0)
    with pytest.raises(ConfigError, match="no prunable weight"):
        uniform({}, 0.5)
