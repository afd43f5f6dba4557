"""Each kind of layer in a region is compared with ONNX Runtime; others must stay outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graphs import Builder, agree, plain_run
from onnx import ModelProto, TensorProto, helper

from fggp_deploy import kernels
from fggp_deploy.errors import ModelFileError
from fggp_deploy.runtime.regions.programs import build_programs
from fggp_deploy.runtime.regions.rewriting import rewrite
from fggp_deploy.runtime.sessions import SessionConfig

if kernels.library_path() is None:
    pytest.skip("no kernel library", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("shapes_in_process")


def steps_of(model: ModelProto) -> list[int]:
    """How many steps each region has."""
    return [len(b.steps) for b in build_programs(model)]


def check(model: ModelProto, *, steps: list[int]) -> None:
    assert steps_of(model) == steps
    rewritten = rewrite(model, build_programs(model), threads=2)
    assert sum(n.domain == "ai.fggp" for n in rewritten.graph.node) == len(steps)
    fast = SessionConfig(threads=2).open(rewritten.SerializeToString(), on_kernels=True)
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16)).astype(np.float32)
        want = plain_run(model, x)
        agree(fast.run(None, {"x": x}), want)
        agree(plain_run(rewritten, x), want)  # function bodies on a stock runtime


def relu6(b: Builder, x: str) -> str:
    return b.op("Clip", x, *(b.tensor(np.array(v, np.float32)) for v in (0, 6)))


def ones(b: Builder, n: int) -> str:
    return b.tensor(np.linspace(-1, 1, n, dtype=np.float32))


def inverted_residuals() -> ModelProto:
    """The blocks of a MobileNet-V2: 11 steps, 2 of them depthwise."""
    b = Builder()
    x = relu6(b, b.conv("x", 8, 3, 3, 2, density=1.0))
    for stride in (1, 2):
        y = relu6(b, b.conv(x, 48, 8, 1))
        y = relu6(b, b.conv(y, 48, 48, 3, stride, group=48, density=1.0))
        y = b.conv(y, 8, 48, 1)
        x = b.op("Add", x, y) if stride == 1 else y
    x = relu6(b, b.conv(x, 40, 8, 1))
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    x = b.op("Gemm", x, b.weight(10, 40), ones(b, 10), transB=1)
    return b.model(x)


def depthwise_multiplier() -> ModelProto:
    b = Builder()
    x = b.conv("x", 12, 3)
    w = b.weight(24, 1, 5, 5, density=1.0)
    return b.model(b.op("Conv", x, w, pads=[2] * 4, group=12, strides=[2, 1]))


def sums() -> ModelProto:
    """A sum of two values that others read too, in both orders, and one of a value with itself."""
    b = Builder()
    a, c = b.conv("x", 8, 3), b.conv("x", 8, 3)
    d = b.op("Relu", b.op("Add", c, a))
    e = b.op("Add", d, d)
    f = b.op("Add", b.op("MaxPool", a, kernel_shape=[1, 1]), b.op("Relu", c))
    return b.model(a, c, d, e, f)


def pre_activation() -> ModelProto:
    """Batch norm and Relu before the convolution, as in ResNet-v2 and DenseNet."""
    b = Builder()
    x = b.op("Add", b.conv("x", 8, 3), b.conv("x", 8, 3))
    stats = [b.tensor(np.linspace(0.5, 1.5, 8, dtype=np.float32)) for _ in range(4)]
    y = b.op("Relu", b.op("BatchNormalization", x, *stats))
    return b.model(b.op("Add", b.conv(y, 8, 8), x))


def mlp_head() -> ModelProto:
    """MatMul and Add, as some exporters write a linear layer, and an activation between two."""
    b = Builder()
    x = b.op("Flatten", b.conv("x", 4, 3, 3, 2))
    x = b.op("Relu", b.op("Add", b.op("MatMul", x, b.weight(256, 12)), ones(b, 12)))
    x = b.op("Relu", b.op("Gemm", x, b.weight(9, 12), ones(b, 9), transB=1))
    x = b.op("Add", ones(b, 5), b.op("MatMul", x, b.weight(9, 5)))
    return b.model(x, b.op("MatMul", x, b.weight(5, 5)))


def pooled_then_convolved() -> ModelProto:
    """A convolution as the classifier, behind the global pooling."""
    b = Builder()
    x = b.op("GlobalAveragePool", b.conv("x", 12, 3))
    return b.model(b.conv(b.op("Relu", x), 7, 12, 1), x)


def pools() -> ModelProto:
    """Rounding up, dilation, uneven strides and padding."""
    b = Builder()
    x = b.conv("x", 5, 3)
    square: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2]}
    return b.model(
        b.op("MaxPool", x, **square, ceil_mode=1),
        b.op("MaxPool", x, **square, ceil_mode=1, pads=[1] * 4),
        b.op("AveragePool", x, **square, ceil_mode=1),
        b.op("AveragePool", x, **square, ceil_mode=1, pads=[1, 0, 1, 0]),
        b.op("MaxPool", x, kernel_shape=[2, 3], strides=[3, 1], pads=[0, 2, 1, 0]),
        b.op("MaxPool", x, kernel_shape=[3, 2], dilations=[2, 3]),
        b.op("AveragePool", x, kernel_shape=[3, 5], strides=[4, 3], count_include_pad=1),
    )


def windows() -> ModelProto:
    """Kernels, strides and dilations that differ by axis; strides above two."""
    b = Builder()
    w = b.weight(6, 3, 5, 2)
    x = b.op("Conv", "x", w, strides=[1, 3], dilations=[2, 1], pads=[3, 1, 2, 0])
    return b.model(x, b.conv("x", 4, 3, 7, 4), b.conv(x, 4, 6, 1, 5))


def ints(b: Builder, *values: int) -> str:
    return b.tensor(np.array(values, np.int64))


def shortcuts() -> ModelProto:
    """Every second row and column, and channels of zeros, as in the ResNets for CIFAR."""
    b = Builder()
    x = b.op("Relu", b.conv("x", 8, 3))
    end, two = ints(b, 2**63 - 1), ints(b, 2)
    y = b.op("Slice", x, ints(b, 0), end, ints(b, 2), two)
    y = b.op("Slice", y, ints(b, 0), end, ints(b, -1), two)
    y = b.op("Pad", y, ints(b, 0, 3, 0, 0, 0, 5, 0, 0))
    y = b.op("Relu", b.op("Add", b.conv(x, 16, 8, 3, 2), y))
    z = b.op("Slice", y, ints(b, 0, 0), ints(b, 8, 99), ints(b, 2, 3), ints(b, 3, 1))
    z = b.op("Pad", z, ints(b, 1, 0), b.tensor(np.zeros((), np.float32)), ints(b, 1))
    return b.model(y, z)


INSIDE = {
    "shortcuts": (shortcuts, 4),
    "inverted_residuals": (inverted_residuals, 11),
    "depthwise_multiplier": (depthwise_multiplier, 2),
    "sums": (sums, 7),
    "pre_activation": (pre_activation, 4),
    "mlp_head": (mlp_head, 6),
    "pooled_then_convolved": (pooled_then_convolved, 4),
    "pools": (pools, 8),
    "windows": (windows, 3),
}


@pytest.mark.parametrize("name", INSIDE)
def test_inside_one_region(name: str) -> None:
    make, n_steps = INSIDE[name]
    check(make(), steps=[n_steps])


def special_values(*, batch: int, size: int = 16) -> np.ndarray:
    """Images of noise; the first has one NaN and one infinity."""
    x = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    x[0, 1, 4, 5], x[0, 2, 11, 2] = np.nan, -np.inf
    return x


# Not `pools`: ONNX Runtime's two layouts of a MaxPool differ on NaN, and the kernels do what the
# usual one does. Not `shortcuts`: its slices are convolutions, which spread NaN over the channels.
@pytest.mark.parametrize("name", sorted(INSIDE.keys() - {"pools", "shortcuts"}))
@pytest.mark.parametrize("isa", kernels.isas())
def test_special_values_as_on_a_stock_runtime(
    name: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FGGP_ISA", isa)
    model = INSIDE[name][0]()
    fast = rewrite(model, build_programs(model), threads=1).SerializeToString()
    x = special_values(batch=2)
    want = plain_run(model, x)
    assert not all(np.isfinite(y).all() for y in want)
    got = SessionConfig(threads=1).open(fast, on_kernels=True).run(None, {"x": x})
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", kernels.isas())
def test_special_values_through_a_residual_net(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolution, activation, max-pool, residual block and classifier at 16 channels."""
    monkeypatch.setenv("FGGP_ISA", isa)
    b = Builder()
    x = b.op("Relu", b.conv("x", 16, 3, 3, 2))
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = b.op("Relu", b.op("Add", b.conv(b.op("Relu", b.conv(x, 16, 16)), 16, 16), x))
    y = b.op("Gemm", b.op("Flatten", b.op("GlobalAveragePool", x)), b.weight(5, 16), transB=1)
    model = b.model(x, y, size=48)
    fast = SessionConfig(threads=1).open(
        rewrite(model, build_programs(model), threads=1).SerializeToString(), on_kernels=True
    )
    x = special_values(batch=2, size=48)
    for g, w in zip(fast.run(None, {"x": x}), plain_run(model, x), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4)


def broadcast_sum(b: Builder, x: str) -> str:
    return b.op("Add", b.op("GlobalAveragePool", x), x)


def ceil_with_counted_padding(b: Builder, x: str) -> str:
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    return b.op("AveragePool", x, **window, ceil_mode=1, count_include_pad=1)


def ceil_that_starts_in_the_padding(b: Builder, x: str) -> str:
    window = {"kernel_shape": [2, 2], "strides": [4, 4], "pads": [0, 0, 1, 1]}
    return b.op("MaxPool", x, **window, ceil_mode=1)


def dilated_and_padded(b: Builder, x: str) -> str:
    return b.op("MaxPool", x, kernel_shape=[3, 3], dilations=[2, 2], pads=[1] * 4)


def same_padding(b: Builder, x: str) -> str:
    return b.op("MaxPool", x, kernel_shape=[2, 2], auto_pad="SAME_UPPER")


def vectors_of_rank_three(b: Builder, x: str) -> str:
    y = b.op("Reshape", x, b.tensor(np.array([0, 8, 256])))
    y = b.op("Relu", b.op("Flatten", b.op("Relu", y)))
    return b.op("Gemm", y, b.weight(3, 2048), transB=1)


def integers(b: Builder, x: str) -> str:
    shape = b.op("Shape", x)
    return b.op("Cast", b.op("Add", shape, shape), to=TensorProto.FLOAT)


def slice_that_starts_later(b: Builder, x: str) -> str:
    return b.op("Slice", x, ints(b, 1), ints(b, 99), ints(b, 2), ints(b, 2))


def slice_that_ends_early(b: Builder, x: str) -> str:
    return b.op("Slice", x, ints(b, 0), ints(b, 15), ints(b, 3), ints(b, 2))


def slice_of_channels(b: Builder, x: str) -> str:
    return b.op("Slice", x, ints(b, 0), ints(b, 99), ints(b, 1), ints(b, 2))


def pad_of_the_plane(b: Builder, x: str) -> str:
    return b.op("Pad", x, ints(b, 0, 1, 0, 1, 0, 1, 0, 0))


def pad_with_ones(b: Builder, x: str) -> str:
    return b.op("Pad", x, ints(b, 0, 1, 0, 0, 0, 1, 0, 0), b.tensor(np.array(1, np.float32)))


def pad_that_crops(b: Builder, x: str) -> str:
    return b.op("Pad", x, ints(b, 0, -1, 0, 0, 0, 1, 0, 0))


OUTSIDE: dict[str, tuple[Callable[[Builder, str], str], list[int]]] = {
    "broadcast_sum": (broadcast_sum, [2]),
    "ceil_with_counted_padding": (ceil_with_counted_padding, [1]),
    "ceil_that_starts_in_the_padding": (ceil_that_starts_in_the_padding, [1]),
    "dilated_and_padded": (dilated_and_padded, [1]),
    "same_padding": (same_padding, [1]),
    "vectors_of_rank_three": (vectors_of_rank_three, [1, 2]),
    "integers": (integers, [1]),
    "slice_that_starts_later": (slice_that_starts_later, [1]),
    "slice_that_ends_early": (slice_that_ends_early, [1]),
    "slice_of_channels": (slice_of_channels, [1]),
    "pad_of_the_plane": (pad_of_the_plane, [1]),
    "pad_with_ones": (pad_with_ones, [1]),
    "pad_that_crops": (pad_that_crops, [1]),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_stays_outside(name: str) -> None:
    make, steps = OUTSIDE[name]
    b = Builder()
    check(b.model(make(b, b.conv("x", 8, 3))), steps=steps)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, 2),  # the version
        (1, 65),  # inputs
        (2, 1 << 40),  # steps
        (4, 99),  # an output that nobody makes
        (5, 8),  # an operator
        (6, 1),  # reads what it makes
        (7, 3),  # a residual from the future
        (8, 1 << 30),  # a constant
        (13, 1 << 20),  # output channels
        (15, 7),  # groups that divide nothing
        (16, 0),  # kernel
        (18, -1),  # stride
        (22, 1 << 62),  # padding
        (27, 1 << 17),  # variant
    ],
)
def test_a_damaged_region_is_an_error(index: int, value: int) -> None:
    b = Builder()
    model = b.model(b.op("Relu", b.conv("x", 8, 3)))
    rewritten = rewrite(model, build_programs(model), threads=1)
    (region,) = [n for n in rewritten.graph.node if n.domain == "ai.fggp"]
    (program,) = [a for a in region.attribute if a.name == "program"]
    program.ints[index] = value
    with pytest.raises(ModelFileError, match="Region_0"):
        SessionConfig().open(rewritten.SerializeToString(), on_kernels=True)


def test_a_region_beside_a_subgraph_that_reads_it() -> None:
    b = Builder()
    x = b.conv("x", 8, 3)
    inner = helper.make_graph(
        [helper.make_node("Relu", [x], ["inner"])],
        "then",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    yes = b.tensor(np.array(True))
    y = b.op("If", yes, then_branch=inner, else_branch=inner)
    check(b.model(y), steps=[1])
