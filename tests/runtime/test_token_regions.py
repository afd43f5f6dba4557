"""Linear layers on tokens in regions: values of three and four dimensions, with open sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graphs import Builder, agree, open_model, plain_run
from onnx import ModelProto

from fggp_deploy import kernels
from fggp_deploy.format.packing import Packing
from fggp_deploy.runtime.compiler import price_layers
from fggp_deploy.runtime.dense import read_dense
from fggp_deploy.runtime.plan import CompileRequest
from fggp_deploy.runtime.regions.programs import build_programs
from fggp_deploy.runtime.regions.rewriting import rewrite
from fggp_deploy.runtime.sessions import SessionConfig

if kernels.library_path() is None:
    pytest.skip("no kernel library", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("shapes_in_process")

WIDTH = 24


def ones(b: Builder, *shape: int) -> str:
    n = shape[-1]
    return b.tensor(np.linspace(-1, 1, n, dtype=np.float32).reshape(shape))


def linear(b: Builder, x: str, k: int, n: int, *bias: int, density: float = 0.1) -> str:
    y = b.op("MatMul", x, b.weight(k, n, density=density))
    return b.op("Add", y, ones(b, *bias)) if bias else y


def mlp(b: Builder) -> list[str]:
    """The second half of a transformer's block, with Relu."""
    y = b.op("LayerNormalization", "x", ones(b, WIDTH), ones(b, WIDTH), axis=-1)
    y = b.op("Relu", linear(b, y, WIDTH, 96, 96))
    return [b.op("Add", "x", linear(b, y, 96, WIDTH, 1, WIDTH))]


def branches(b: Builder) -> list[str]:
    """Sums of what two layers make, and of a value with itself; one weight has no zeros."""
    left, right = linear(b, "x", WIDTH, 40), linear(b, "x", WIDTH, 40, 40, density=1.0)
    limits = [b.tensor(np.array(v, np.float32)) for v in (-1, 1)]
    both = b.op("Clip", b.op("Add", left, right), *limits)
    y = linear(b, b.op("Relu", b.op("Add", both, both)), 40, 9)
    return [both, y]


def bias_of_another_rank(b: Builder) -> list[str]:
    """Its sum has one dimension more than the value, which no step can compute."""
    return [linear(b, "x", WIDTH, 8, 1, 1, 1, 1, 8)]


NETS: dict[str, tuple[Callable[[Builder], list[str]], list[int]]] = {
    "mlp": (mlp, [2]),
    "branches": (branches, [4]),
    "bias_of_another_rank": (bias_of_another_rank, [1]),
}
OPEN: dict[int, list[Any]] = {3: ["N", "T", WIDTH], 4: ["N", "H", "W", WIDTH]}


def model(make: Callable[[Builder], list[str]], dims: list[Any]) -> ModelProto:
    b = Builder()
    outputs = make(b)
    return open_model(b, {"x": dims}, *outputs)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rank", OPEN)
def test_one_region_for_any_number_of_tokens(name: str, rank: int) -> None:
    make, steps = NETS[name]
    net = model(make, OPEN[rank])
    built = build_programs(net)
    assert [len(region.steps) for region in built] == steps
    rewritten = rewrite(net, built, threads=2)
    fast = SessionConfig(threads=2).open(rewritten.SerializeToString(), on_kernels=True)
    for leading in ((1, 1, 1), (2, 3, 7), (1, 5, 10), (3, 2, 0)):
        x = numbers(*leading[-rank + 1 :], WIDTH)
        want = plain_run(net, x)
        agree(fast.run(None, {"x": x}), want)
        agree(plain_run(rewritten, x), want)  # function bodies on a stock runtime


@pytest.mark.parametrize("isa", kernels.isas())
@pytest.mark.parametrize("name", ["mlp", "branches"])
def test_special_values_as_on_a_stock_runtime(
    name: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FGGP_ISA", isa)
    net = model(NETS[name][0], OPEN[3])
    fast = rewrite(net, build_programs(net), threads=1).SerializeToString()
    x = numbers(2, 20, WIDTH)
    x[0, 3, 5], x[1, 0, 1], x[1, 19, 2] = np.nan, np.inf, -np.inf
    got = SessionConfig(threads=1).open(fast, on_kernels=True).run(None, {"x": x})
    for g, w in zip(got, plain_run(net, x), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4)


def test_fixed_sizes_are_read_as_open_ones_are() -> None:
    """ONNX Runtime would put each layer between two Reshapes, and cut the region there."""
    dense = read_dense(model(mlp, [2, 5, WIDTH]).SerializeToString())
    (region,) = build_programs(dense)
    assert len(region.steps) == 2


def planes_and_tokens(b: Builder) -> list[str]:
    """Layers of both kinds read one value, and each reads what the other makes."""
    plane, tokens = b.conv("x", 6, 6), linear(b, "x", WIDTH, WIDTH)
    return [
        linear(b, b.op("Relu", plane), WIDTH, 8),
        b.conv(b.op("Relu", tokens), 4, 6),
        b.op("Add", plane, tokens),
    ]


def test_planes_and_tokens_are_different_regions() -> None:
    net = model(planes_and_tokens, ["N", 6, 10, WIDTH])
    built = build_programs(net)
    assert all(len({x.on_rows for x in r.region.layers}) == 1 for r in built)
    assert len(built) == 4
    fast = SessionConfig(1).open(
        rewrite(net, built, threads=1).SerializeToString(), on_kernels=True
    )
    x = numbers(2, 6, 10, WIDTH)
    agree(fast.run(None, {"x": x}), plain_run(net, x))


@pytest.mark.parametrize("packed", [False, True])
def test_layers_are_priced_by_all_tokens(packed: bool) -> None:
    net = model(mlp, ["N", 50, WIDTH])
    weights = [node.input[1] for node in net.graph.node if node.op_type == "MatMul"]
    content = (Packing.of(net).model if packed else net).SerializeToString()
    found = price_layers(content, CompileRequest(SessionConfig(1), batch=2, tuning_seconds=0))
    macs = 50 * WIDTH * 96
    assert [(c.macs, c.elements) for c in found] == [(macs, 50 * 96), (macs, 50 * WIDTH)]
    assert all(c.dense_us is not None for c in found)
    assert [c.name for c in found] == weights
