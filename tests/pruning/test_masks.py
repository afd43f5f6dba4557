from __future__ import annotations

import pytest
import torch

from fggp_deploy import MaskSet
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.masks import random_masks, tensor_digest


def params() -> dict[str, torch.Tensor]:
    return {"a": torch.tensor([[1.0, 0.0], [2.0, 3.0]]), "b": torch.tensor([0.0, 5.0])}


def test_nonzeros_are_kept():
    masks = MaskSet.of_nonzeros(params())
    assert masks["a"].tolist() == [[True, False], [True, True]]
    assert (masks.n_total, masks.n_removed) == (6, 2)
    assert masks.sparsity == pytest.approx(2 / 6)


def test_flatten_and_back():
    masks = MaskSet.of_nonzeros(params())
    assert masks.flatten().tolist() == [True, False, True, True, False, True]
    again = MaskSet.unflatten(masks.flatten(), masks)
    assert again.digest() == masks.digest()


def test_apply_zeroes_in_place():
    p = params()
    MaskSet({"a": torch.tensor([[False, True], [True, False]])}).apply_(p)
    assert p["a"].tolist() == [[0, 0], [2, 0]]
    assert p["b"].tolist() == [0, 5]


def test_dropped_and_subset():
    old = MaskSet.ones(params())
    new = MaskSet.of_nonzeros(params())
    assert new.dropped_since(old)["b"].tolist() == [True, False]
    assert new.is_subset_of(old)
    assert not old.is_subset_of(new)


def test_empty_layers_are_named():
    masks = MaskSet({"a": torch.zeros(2, dtype=torch.bool), "b": torch.ones(1, dtype=torch.bool)})
    assert masks.empty_layers() == ["a"]


def test_only_bool_is_a_mask():
    with pytest.raises(ConfigError, match="must be bool"):
        MaskSet({"a": torch.ones(2)})


def test_digest_sees_name_shape_dtype_and_bytes():
    base = {"a": torch.arange(4.0)}
    variants = [
        {"b": torch.arange(4.0)},
        {"a": torch.arange(4.0).view(2, 2)},
        {"a": torch.arange(4, dtype=torch.float64)},
        {"a": torch.tensor([0.0, 1.0, 2.0, 4.0])},
    ]
    assert tensor_digest(base) == tensor_digest({"a": torch.arange(4.0)})
    assert all(tensor_digest(v) != tensor_digest(base) for v in variants)


def test_random_masks_keep_exact_counts_and_follow_the_seed():
    def draw(seed: int) -> MaskSet:
        generator = torch.Generator().manual_seed(seed)
        return random_masks(params(), {"a": 3, "b": 1}, generator=generator)

    assert [int(m.sum()) for m in draw(0).values()] == [3, 1]
    assert draw(0).digest() == draw(0).digest()
    assert len({draw(seed).digest() for seed in range(8)}) > 1
