"""Small standard graphs whose weights are 90% zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper


class Builder:
    """A small graph in the making."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def tensor(self, array: np.ndarray) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def weight(self, *shape: int, density: float = 0.1) -> str:
        w = self.rng.standard_normal(shape).astype(np.float32)
        w[self.rng.random(shape) > density] = 0
        return self.tensor(w)

    def conv(self, x: str, cout: int, cin: int, k: int = 3, stride: int = 1, **more: Any) -> str:
        density = more.pop("density", 0.1)
        w = self.weight(cout, cin // more.get("group", 1), k, k, density=density)
        b = self.tensor(self.rng.standard_normal(cout).astype(np.float32))
        return self.op("Conv", x, w, b, pads=[k // 2] * 4, strides=[stride] * 2, **more)

    def model(self, *outputs: str, size: int = 16, batch: Any = "n") -> ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, size])
        ys = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "g", [x], ys, self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        model = onnx.shape_inference.infer_shapes(model)  # the checker wants the outputs' ranks
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        return model


def open_model(b: Builder, inputs: dict[str, Any], *outputs: str) -> ModelProto:
    """The built graph with these inputs: lists of dimensions are of floats, else the type."""
    made = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, d)
        if isinstance(d, list)
        else helper.make_tensor_value_info(n, d, [])
        for n, d in inputs.items()
    ]
    ys = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
    graph = helper.make_graph(b.nodes, "g", made, ys, b.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)  # the checker wants the outputs' ranks
    del model.graph.value_info[:]
    for value in model.graph.output:
        if not value.type.tensor_type.HasField("shape"):
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [None] * 4))
    return model


def residual_net() -> ModelProto:
    b = Builder()
    x = b.op("Relu", b.conv("x", 16, 3, density=1.0))
    y = b.op("Relu", b.conv(x, 16, 16))
    x = b.op("Relu", b.op("Add", b.conv(y, 16, 16), x))
    x = b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    skip = b.conv(x, 32, 16, 1, 2)
    y = b.conv(x, 32, 16, 3, 2)
    x = b.op("Relu", b.op("Add", y, skip))
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    return b.model(b.op("Gemm", x, b.weight(10, 32), b.tensor(np.ones(10, np.float32)), transB=1))


def mobile_net() -> ModelProto:
    b = Builder()
    limits = [b.tensor(np.array(v, np.float32)) for v in (0, 6)]
    x = b.op("Clip", b.conv("x", 8, 3, 3, 2, density=1.0), *limits)
    y = b.op("Clip", b.conv(x, 24, 8, 1), *limits)
    y = b.op("Clip", b.conv(y, 24, 24, 3, 1, group=24, density=1.0), *limits)
    x = b.op("Add", x, b.conv(y, 8, 24, 1))
    axes = b.tensor(np.array([2, 3]))
    x = b.op("ReduceMean", x, axes, keepdims=0)
    return b.model(b.op("Gemm", x, b.weight(5, 8), b.tensor(np.ones(5, np.float32)), transB=1))


def split_net() -> ModelProto:
    """A Sigmoid in the middle makes two regions; a value of the first is used after it."""
    b = Builder()
    a = b.op("Relu", b.conv("x", 12, 3))
    c = b.conv(a, 12, 12)
    gate = b.op("Sigmoid", c)
    d = b.op("Add", b.conv(gate, 12, 12), a)
    return b.model(d, b.op("AveragePool", d, kernel_shape=[3, 3], pads=[1] * 4), a)


def bn_net() -> ModelProto:
    b = Builder()
    w = b.weight(8, 3, 3, 3)
    x = b.op("Conv", "x", w, pads=[1] * 4)
    stats = [b.tensor(np.full(8, v, np.float32)) for v in (2, 0.5, 0.1, 4)]
    return b.model(b.op("Relu", b.op("BatchNormalization", x, *stats)))


def detector_net() -> ModelProto:
    """Boxes, and scores that are so near to zero that only roundings are left of them."""
    b = Builder()
    x = b.op("Relu", b.conv("x", 32, 3))
    for _ in range(4):
        x = b.op("Relu", b.conv(x, 32, 32))
    boxes = b.conv(x, 4, 32, 1)
    small = b.tensor(
        np.full((8, 32, 1, 1), 1e-4, np.float32) * (np.arange(32) % 4 == 0)[:, None, None]
    )
    scores = b.op("Conv", x, small, b.tensor(np.full(8, -16, np.float32)))
    return b.model(boxes, b.op("Sigmoid", scores))


NETS = {"residual": residual_net, "mobile": mobile_net, "split": split_net, "bn": bn_net}


def plain_run(model: ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {"x": x}))


def agree(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    assert [g.shape for g in got] == [w.shape for w in want]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5 * np.abs(w).max(initial=0))
