"""Compaction: fewer channels, the same outputs under onnxruntime."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import onnx
import pytest
import torch
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from fggp_deploy import models
from fggp_deploy.compaction.dead_channels import compact
from fggp_deploy.exporters.compaction import compacted
from fggp_deploy.exporters.torch_onnx import to_onnx
from fggp_deploy.runtime.sessions import SessionConfig

pytestmark = pytest.mark.usefixtures("shapes_in_process")


def run(model: ModelProto, batch: int = 2) -> list[np.ndarray]:
    side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    x = np.random.default_rng(1).standard_normal((batch, 3, side, side)).astype(np.float32)
    return SessionConfig(1).open(model.SerializeToString()).run(None, {"x": x})


def same_outputs(model: ModelProto, small: ModelProto) -> None:
    onnx.checker.check_model(small, full_check=True)
    for got, want in zip(run(small), run(model), strict=True):
        assert got.shape == want.shape
        largest = max(float(np.abs(want).max()), 1e-3)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * largest)


class Net(Builder):
    """Convolutions whose filters and inputs can be killed; random biases by default."""

    def layer(
        self, x: str, cin: int, cout: int, *, dead: Any = (), unread: Any = (), bias: Any = None,
        k: int = 3, pad: int = 1, **more: Any,
    ) -> str:  # fmt: skip
        w = self.rng.standard_normal((cout, cin // more.get("group", 1), k, k)).astype(np.float32)
        w[list(dead)] = 0
        if unread:
            w[:, list(unread)] = 0
        b = self.rng.standard_normal(cout).astype(np.float32) if bias is None else bias
        inputs = [x, self.tensor(w), self.tensor(np.asarray(b, np.float32))]
        return self.op("Conv", *inputs, pads=[pad] * 4, **more)

    def head(self, x: str, c: int) -> str:
        y = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.op("Gemm", y, self.weight(10, c, density=1.0), transB=1)


def widths(model: ModelProto) -> list[int]:
    tensors = {t.name: t for t in model.graph.initializer}
    return [tensors[n.input[1]].dims[0] for n in model.graph.node if n.op_type == "Conv"]


def test_a_dead_filter_behind_relu_is_removed() -> None:
    b = Net()
    y = b.op("Relu", b.layer("x", 3, 8, dead=[1, 5], bias=np.full(8, -0.5)))
    model = b.model(b.head(b.layer(y, 8, 4), 4))
    done = compact(model, align=1)
    assert widths(done.model) == [6, 4]
    assert done.channels == {"t0": (8, 6)}
    assert done.n_removed == 2
    assert done.macs[0] == 256 * (8 * 27 + 4 * 72) + 40
    assert done.macs[1] == 256 * (6 * 27 + 4 * 54) + 40
    same_outputs(model, done.model)


@pytest.mark.parametrize(("pad", "k", "left"), [(1, 3, 7), (0, 3, 6), (0, 1, 6)])
def test_one_constant_stays_where_a_border_would_tell(pad: int, k: int, left: int) -> None:
    b = Net()
    y = b.op("Relu", b.layer("x", 3, 8, dead=[1, 5], bias=np.arange(8) / 4))
    model = b.model(b.head(b.layer(y, 8, 4, k=k, pad=pad), 4))
    done = compact(model, align=1)
    assert widths(done.model) == [left, 4]
    same_outputs(model, done.model)


def test_a_constant_is_carried_where_only_the_middle_tap_reads_it() -> None:
    b = Net()
    y = b.op("Relu", b.layer("x", 3, 8, dead=[1], bias=np.full(8, 0.5)))
    z = b.layer(y, 8, 4)
    w = numpy_helper.to_array(b.tensors[2]).copy()
    w[:, 1] *= np.eye(3, dtype=np.float32)[1] * np.eye(3, dtype=np.float32)[1][:, None]
    b.tensors[2].CopyFrom(numpy_helper.from_array(w, "t2"))
    model = b.model(b.head(z, 4))
    done = compact(model, align=1)
    assert widths(done.model) == [7, 4]
    same_outputs(model, done.model)


def test_an_unread_channel_is_removed_through_a_chain() -> None:
    b = Net()
    y = b.op("Relu", b.layer("x", 3, 8))
    y = b.op("Relu", b.layer(y, 8, 8, unread=[0, 1]))
    model = b.model(b.head(b.layer(y, 8, 4, unread=[7]), 4))
    done = compact(model, align=1)
    assert widths(done.model) == [6, 7, 4]
    same_outputs(model, done.model)


def test_dead_channels_die_on_to_a_fixed_point() -> None:
    """A filter that reads dead channels alone is dead itself, and so is what only it reads."""
    b = Net()
    y = b.op("Relu", b.layer("x", 3, 8, dead=[0, 1], bias=np.full(8, -0.5)))
    z = b.layer(y, 8, 8, bias=np.full(8, -1.0))
    w = numpy_helper.to_array(b.tensors[2]).copy()
    w[3, 2:] = 0  # reads 0 and 1 alone
    b.tensors[2].CopyFrom(numpy_helper.from_array(w, "t2"))
    model = b.model(b.head(b.layer(b.op("Relu", z), 8, 4), 4))
    done = compact(model, align=1)
    assert widths(done.model) == [6, 7, 4]
    same_outputs(model, done.model)


def test_a_residual_sum_needs_both() -> None:
    b = Net()
    x = b.op("Relu", b.layer("x", 3, 8, dead=[2, 3], bias=np.full(8, -0.1)))
    y = b.layer(x, 8, 8, dead=[3, 4], bias=np.zeros(8))
    s = b.op("Relu", b.op("Add", y, x))
    model = b.model(b.head(b.layer(s, 8, 4), 4))
    done = compact(model, align=1)
    assert widths(done.model) == [7, 7, 4]  # 3 is dead on both sides
    same_outputs(model, done.model)


@pytest.mark.parametrize("axes", [False, True])
def test_a_shortcut_of_slices_and_zeros(axes: bool) -> None:
    b = Net()
    x = b.op("Relu", b.layer("x", 3, 4, dead=[2], bias=np.full(4, -0.1)))
    bounds = [b.tensor(np.array(v)) for v in ([0, 0], [99, 99], [2, 3], [2, 2])]
    short = b.op("Slice", x, *bounds)
    pads = [2, 2] if axes else [0, 2, 0, 0, 0, 2, 0, 0]
    more = [b.tensor(np.array(0, np.float32)), b.tensor(np.array([1]))] if axes else []
    short = b.op("Pad", short, b.tensor(np.array(pads)), *more)
    y = b.layer(x, 4, 8, dead=[0, 4, 5], bias=np.zeros(8), strides=[2, 2])
    s = b.op("Relu", b.op("Add", y, short))
    model = b.model(b.head(b.layer(s, 8, 4), 4))
    done = compact(model, align=1)
    assert widths(done.model) == [3, 6, 4]  # 0 is padded and dead, 4 comes from the dead 2
    same_outputs(model, done.model)


def test_concatenations_and_batch_norms() -> None:
    b = Net()
    left = b.layer("x", 3, 8, dead=[2], bias=np.zeros(8))
    right = b.layer("x", 3, 8, dead=[0, 7], bias=np.zeros(8))
    y = b.op("Concat", left, right, axis=1)
    stats = [b.tensor(b.rng.random(16).astype(np.float32) + 0.5) for _ in range(4)]
    y = b.op("BatchNormalization", y, *stats)
    model = b.model(b.head(b.layer(y, 16, 4, pad=0), 4))
    done = compact(model, align=1)
    assert widths(done.model) == [7, 6, 4]
    same_outputs(model, done.model)


def test_depthwise_and_gates() -> None:
    b = Net()
    y = b.op("Relu", b.layer("x", 3, 8, dead=[2, 5], bias=np.full(8, -0.5)))
    y = b.op("Relu", b.layer(y, 8, 8, group=8, bias=np.full(8, -0.1)))
    gate = b.op("Sigmoid", b.layer(b.op("GlobalAveragePool", y), 8, 8, k=1, pad=0))
    model = b.model(b.head(b.layer(b.op("Mul", y, gate), 8, 4), 4))
    done = compact(model, align=1)
    assert widths(done.model) == [6, 6, 6, 4]
    same_outputs(model, done.model)


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [([0, -1], {}), ([-1, 8 * 256], {}), ([-1, 8 * 256], {"allowzero": 1})],  # torch's exporter
)
def test_a_flattened_plane(shape: list[int], attributes: dict[str, int]) -> None:
    b = Net()
    y = b.op("Relu", b.layer("x", 3, 8, dead=[2, 5], bias=np.full(8, 0.5)))
    y = b.op("Reshape", y, b.tensor(np.array(shape)), **attributes)
    model = b.model(b.op("MatMul", y, b.weight(8 * 256, 10, density=1.0)))
    done = compact(model, align=1)
    assert widths(done.model) == [6]
    assert done.model.graph.node[-1].op_type == "Gemm"  # it has a bias now
    same_outputs(model, done.model)


def test_unknown_operators_and_outputs_keep_everything() -> None:
    b = Net()
    y = b.layer("x", 3, 8, dead=[2], bias=np.zeros(8))
    z = b.op("Softmax", y, axis=1)
    model = b.model(z, b.layer("x", 3, 4, dead=[0]))
    done = compact(model, align=1)
    assert done.n_removed == 0
    assert done.macs[0] == done.macs[1]
    same_outputs(model, done.model)


def test_a_network_that_is_all_constant_keeps_one_channel() -> None:
    b = Net()
    y = b.op("Relu", b.layer("x", 3, 8, dead=range(8)))
    model = b.model(b.head(b.op("Relu", b.layer(y, 8, 4, pad=0)), 4))
    done = compact(model, align=1)
    assert widths(done.model)[0] == 1
    same_outputs(model, done.model)


def test_a_shared_weight_is_cut_for_each_of_its_users() -> None:
    b = Net()
    x = b.op("Relu", b.layer("x", 3, 8, dead=[1], bias=np.full(8, -1.0)))
    w = b.weight(8, 8, 3, 3, density=0.5)
    y = b.op("Relu", b.op("Conv", x, w, pads=[1] * 4))
    z = b.op("Relu", b.op("Conv", y, w, pads=[1] * 4))
    model = b.model(b.head(b.layer(z, 8, 4, unread=[6]), 4))
    done = compact(model, align=1)
    assert widths(done.model) == [7, 8, 7, 4]
    same_outputs(model, done.model)


ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "HardSwish", "Identity")


def random_net(seed: int) -> ModelProto:
    """Blocks in any order on one stream; masks kill filters, inputs and single weights."""
    rng = np.random.default_rng(seed)
    b = Net()
    b.rng = rng

    def conv(x: str, cin: int, cout: int, **more: Any) -> str:
        k = more.get("k", 3)
        w = rng.standard_normal((cout, cin // more.get("group", 1), k, k)).astype(np.float32)
        w[rng.random(w.shape) < rng.choice([0, 0.5, 0.95])] = 0
        w[rng.random(cout) < rng.choice([0, 0.4])] = 0
        w[:, rng.random(w.shape[1]) < rng.choice([0, 0.4])] = 0
        pad = more.pop("pad", int(rng.integers(0, 2)) if k > 1 else 0)
        more.pop("k", None)
        inputs = [x, b.tensor(w)]
        if rng.random() < 0.8:
            bias = rng.standard_normal(cout) * (rng.random(cout) < 0.5) * rng.choice([-1, 1])
            inputs.append(b.tensor(bias.astype(np.float32)))
        return b.op("Conv", *inputs, pads=[pad] * 4, **more)

    def act(x: str) -> str:
        return b.op(str(rng.choice(ACTIVATIONS)), x) if rng.random() < 0.8 else x

    width = int(rng.integers(4, 9))
    x = act(conv("x", 3, width))
    for kind in rng.choice(
        ["plain", "residual", "concat", "depthwise", "shortcut", "gate", "pool", "bn"], 5
    ):
        if kind == "plain":
            new = int(rng.integers(3, 9))
            x, width = act(conv(x, width, new)), new
        elif kind == "residual":
            y = act(conv(x, width, width, pad=1))
            x = act(b.op("Add", conv(y, width, width, pad=1), x))
        elif kind == "concat":
            y = act(conv(x, width, 3, k=1))
            x, width = b.op("Concat", y, x, axis=1), width + 3
        elif kind == "depthwise":
            x = act(conv(x, width, width, group=width))
        elif kind == "shortcut":
            ends = [b.tensor(np.array(v)) for v in ([0, 0], [99, 99], [2, 3], [1, 1])]
            before, after = (int(i) for i in rng.integers(0, 3, 2))
            pads = b.tensor(np.array([0, before, 0, 0, 0, after, 0, 0]))
            y = b.op("Pad", b.op("Slice", x, *ends), pads)
            x = b.op("Add", conv(x, width, width + before + after, pad=1), y)
            width += before + after
        elif kind == "gate":
            gate = conv(b.op("GlobalAveragePool", x), width, width, k=1)
            x = b.op("Mul", x, b.op("Sigmoid", gate))
        elif kind == "pool":
            op = str(rng.choice(["MaxPool", "AveragePool"]))
            pads = [int(rng.integers(0, 2))] * 4
            more = {"count_include_pad": int(rng.integers(0, 2))} if op == "AveragePool" else {}
            x = b.op(op, x, kernel_shape=[3, 3], pads=pads, **more)
        else:
            p = [rng.standard_normal(width) * (rng.random(width) < 0.8), rng.standard_normal(width)]
            p += [rng.standard_normal(width), rng.random(width) + 0.5]
            x = b.op("BatchNormalization", x, *(b.tensor(v.astype(np.float32)) for v in p))
            scale = b.tensor(rng.standard_normal((1, width, 1, 1)).astype(np.float32))
            x = b.op(str(rng.choice(["Mul", "Add", "Sub"])), x, scale)
    return b.model(b.head(x, width), size=24)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4]))
def test_random_networks_keep_their_outputs(seed: int, align: int) -> None:
    model = random_net(seed)
    same_outputs(model, compact(model, align=align).model)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_many_random_networks_keep_their_outputs(seed: int, align: int) -> None:
    model = random_net(seed)
    same_outputs(model, compact(model, align=align).model)


def test_random_networks_do_lose_channels() -> None:
    assert sum(compact(random_net(seed), align=1).n_removed > 0 for seed in range(30)) > 20


@pytest.mark.parametrize("align", [1, 4])
def test_compacting_twice_changes_nothing(align: int) -> None:
    for seed in range(20):
        once = compact(random_net(seed), align=align).model
        assert compact(once, align=align).n_removed == 0


def test_that_nothing_can_leave_is_said() -> None:
    b = Net()
    model = b.model(b.head(b.layer("x", 3, 8), 8))
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    small, about = compacted(model, {"x": x})
    assert small.graph == model.graph
    assert about.sentence().endswith("the network is the same as without --compact")


def test_widths_stay_multiples_of_what_onnxruntime_wants() -> None:
    b = Net()
    y = b.op("Relu", b.layer("x", 3, 16, dead=[0, 1, 2, 9, 15], bias=np.zeros(16)))
    z = b.op("Add", b.layer(y, 16, 6, dead=[2]), b.layer(y, 16, 6, dead=[2]))
    model = b.model(b.head(z, 6))
    assert widths(compact(model, align=1).model) == [11, 5, 5]
    done = compact(model)  # 6 is no multiple, but all there were
    assert widths(done.model) == [12, 6, 6]
    assert done.n_removed == 4
    same_outputs(model, done.model)


def test_a_network_of_the_package_with_padded_shortcuts() -> None:
    torch.manual_seed(0)
    net = models.build("resnet20", num_classes=10, in_channels=3).eval()
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 4:  # filters of very different sizes, and one threshold
                p *= torch.rand(len(p), 1, 1, 1) ** 3 * torch.rand(1, p.shape[1], 1, 1) ** 2
                p *= p.abs() > p.abs().flatten().kthvalue(int(0.95 * p.numel())).values
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.bias.uniform_(-0.5, 0.5)
                m.running_mean.uniform_(-0.5, 0.5)
    meta = nets.metadata(size=32)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    small, about = compacted(to_onnx(net, meta), {"input": x})
    assert about.n_removed > 50
    assert about.error <= 1e-6
    assert about.packed_bytes[1] < about.packed_bytes[0]
    assert {n.op_type for n in small.graph.node} >= {"Pad", "Slice"}
