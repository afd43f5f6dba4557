"""Networks from small to large export, pack, pass their self-test and stay the same network."""

from __future__ import annotations

import bench_export as bench
import pytest

pytestmark = pytest.mark.usefixtures("shapes_in_process")

SMALL = [
    ("resnet20", "erk", 16),
    ("torchvision:squeezenet1_1", "uniform", 64),  # branches, no batch norm, no linear layer
    ("torchvision:shufflenet_v2_x1_0", "uniform", 64),  # grouped, depthwise, channel shuffles
]


@pytest.mark.parametrize(("name", "masks", "size"), SMALL)
def test_a_few_small_ones(tmp_path, name, masks, size):
    row = bench.measure(name, tmp_path, masks=masks, size=size)
    assert row.failures == []
    assert row.bit_equal
    assert row.fp16_bytes < row.packed_bytes < row.sparse_initializer_bytes < row.dense_bytes
    assert row.fp16_rel < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("masks", ["uniform", "erk"])
@pytest.mark.parametrize("name", bench.NETWORKS)
def test_every_network(tmp_path, name, masks):
    row = bench.measure(name, tmp_path, masks=masks)
    assert row.failures == []
    assert row.packed_bytes < 0.2 * row.dense_bytes
    assert row.fp16_rel < 2e-2
