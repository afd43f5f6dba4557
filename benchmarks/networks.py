"""VGG-19, ResNet-50 and MobileNet-V2 with random sparse weights, as plain ONNX graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper


@dataclass
class Weight:
    name: str
    shape: tuple[int, ...]
    gain: float
    prunable: bool = True
    density: float = 1.0


@dataclass
class Net:
    """A graph under construction; `shapes` are (channels, height) of the values so far."""

    size: int
    nodes: list[Any] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes["x"] = (3, self.size)

    def _add(self, op: str, inputs: list[str], shape: tuple[int, int], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.shapes[name] = shape
        return name

    def conv(
        self,
        x: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        gain: float = 2,
        group: int = 1,
        prunable: bool = True,
    ) -> str:
        cin, size = self.shapes[x]
        weight = f"w{len(self.weights)}"
        self.weights.append(
            Weight(weight, (channels, cin // group, kernel, kernel), gain, prunable)
        )
        return self._add(
            "Conv",
            [x, weight, f"{weight}.bias"],
            (channels, (size - 1) // stride + 1),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            group=group,
        )

    def relu(self, x: str) -> str:
        return self._add("Relu", [x], self.shapes[x])

    def relu6(self, x: str) -> str:
        return self._add("Clip", [x, "zero", "six"], self.shapes[x])

    def add(self, a: str, b: str) -> str:
        return self._add("Add", [a, b], self.shapes[a])

    def pool(self, x: str, kernel: int, *, pad: int = 0) -> str:
        channels, size = self.shapes[x]
        shape = (channels, (size + 2 * pad - kernel) // 2 + 1)
        window = {"kernel_shape": [kernel] * 2, "strides": [2] * 2, "pads": [pad] * 4}
        return self._add("MaxPool", [x], shape, **window)

    def classify(self, x: str, classes: int, *, prunable: bool = True) -> None:
        pooled = self._add("GlobalAveragePool", [x], (self.shapes[x][0], 1))
        flat = self._add("Flatten", [pooled], (self.shapes[x][0], 1))
        weight = f"w{len(self.weights)}"
        self.weights.append(Weight(weight, (classes, self.shapes[x][0]), 1, prunable))
        self._add("Gemm", [flat, weight, f"{weight}.bias"], (classes, 1), transB=1)


def vgg19() -> Net:
    net = Net(32)
    x = "x"
    for width in (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4):
        x = net.relu(net.conv(x, width, 3)) if width else net.pool(x, 2)
    net.classify(x, 10)
    return net


def resnet50(size: int) -> Net:
    net = Net(size)
    if size == 224:
        x = net.pool(net.relu(net.conv("x", 64, 7, stride=2)), 3, pad=1)
    else:
        x = net.relu(net.conv("x", 64, 3))
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            skip = x if block else net.conv(x, 4 * width, 1, stride=stride, gain=1)
            y = net.relu(net.conv(x, width, 1))
            y = net.relu(net.conv(y, width, 3, stride=stride))
            x = net.relu(net.add(net.conv(y, 4 * width, 1, gain=0.5), skip))
    net.classify(x, 1000 if size == 224 else 100)
    return net


def mobilenet_v2(size: int) -> Net:
    """As in torchvision, with stride 1 first at 32 x 32; only its pointwise layers are pruned."""
    net = Net(size)
    x = net.relu6(net.conv("x", 32, 3, stride=2 if size == 224 else 1, prunable=False))
    for expansion, channels, blocks, first_stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for block in range(blocks):
            stride = 1 if block else first_stride
            wide = expansion * net.shapes[x][0]
            y = net.relu6(net.conv(x, wide, 1)) if expansion > 1 else x
            y = net.relu6(net.conv(y, wide, 3, stride=stride, group=wide, prunable=False))
            y = net.conv(y, channels, 1, gain=1 if block == 0 else 0.5)
            x = net.add(x, y) if block else y
    net.classify(net.relu6(net.conv(x, 1280, 1)), 1000 if size == 224 else 10, prunable=False)
    return net


def set_densities(net: Net, sparsity: float, mask: str) -> None:
    """`uniform`: the same for all prunable layers except the first; `erk`: Erdős–Rényi kernel."""
    prunable = [w for w in net.weights if w.prunable]
    sizes = {w.name: math.prod(w.shape) for w in prunable}
    budget = (1 - sparsity) * sum(sizes.values())
    if mask == "uniform":
        if prunable[0] is net.weights[0]:
            budget -= sizes.pop(prunable.pop(0).name)
        for w in prunable:
            w.density = budget / sum(sizes.values())
        return
    raw = {w.name: sum(w.shape) / sizes[w.name] for w in prunable}
    dense: set[str] = set()
    while True:
        open_ = [n for n in raw if n not in dense]
        left = budget - sum(sizes[n] for n in dense)
        scale = left / sum(raw[n] * sizes[n] for n in open_)
        too_dense = [n for n in open_ if raw[n] * scale > 1]
        if not too_dense:
            break
        dense.add(max(too_dense, key=lambda n: raw[n]))
    for w in prunable:
        w.density = 1.0 if w.name in dense else raw[w.name] * scale


def to_onnx(net: Net, *, batch: int | str, seed: int = 0, block: int = 1) -> ModelProto:
    """The network with exactly density * size non-zeros in each layer, at random positions.

    If the number of input channels is a multiple of `block`, whole blocks of that size are kept.
    """
    rng = np.random.default_rng(seed)
    tensors = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("zero", 0), ("six", 6))
    ]
    for w in net.weights:
        size = math.prod(w.shape)
        together = block if w.shape[1] % block == 0 else 1
        n = max(1, round(w.density * size / together))
        flat = np.zeros((size // together, together), np.float32)
        fan_in = size / w.shape[0] * w.density
        values = rng.standard_normal((n, together))
        flat[rng.permutation(len(flat))[:n]] = values * math.sqrt(w.gain / fan_in)
        bias = (0.1 * rng.standard_normal(w.shape[0])).astype(np.float32)
        channels_last = (w.shape[0], *w.shape[2:], w.shape[1])
        array = np.moveaxis(flat.reshape(channels_last), -1, 1) if together > 1 else flat
        tensors.append(numpy_helper.from_array(array.reshape(w.shape), w.name))
        tensors.append(numpy_helper.from_array(bias, f"{w.name}.bias"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, net.size, net.size])
    last = net.nodes[-1].output[0]
    y = helper.make_tensor_value_info(last, TensorProto.FLOAT, [batch, net.weights[-1].shape[0]])
    graph = helper.make_graph(net.nodes, "net", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


NETWORKS = {
    "vgg19-32": vgg19,
    "resnet50-32": lambda: resnet50(32),
    "resnet50-224": lambda: resnet50(224),
    "mobilenetv2-32": lambda: mobilenet_v2(32),
    "mobilenetv2-224": lambda: mobilenet_v2(224),
}
