"""`runtime.session`: the same outputs as plain ONNX Runtime, regions where there can be any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fggp_deploy import kernels, runtime
from fggp_deploy.onnx_ops import pack
from fggp_deploy.runtime import plan as plans
from fggp_deploy.runtime.regions import find, rewrite

needs_library = pytest.mark.skipif(kernels.library_path() is None, reason="no kernel library")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "TUNING_SECONDS", 0.05)
    return tmp_path / "cache"


class Builder:
    """A small graph; weights are 90% zeros."""

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
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5 * np.abs(w).max())


@needs_library
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NETS)
def test_agrees_with_plain_onnxruntime(
    name: str, threads: int, packed: bool, tmp_path: Path
) -> None:
    model = NETS[name]()
    path = tmp_path / "m.onnx"
    onnx.save(pack(model) if packed else model, path)
    session = runtime.session(path, threads=threads, measure=False)
    assert runtime.uses_kernels(session)
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16)).astype(np.float32)
        agree(session.run(None, {"x": x}), plain_run(model, x))


@needs_library
@pytest.mark.parametrize(("name", "regions", "steps"), [("residual", 1, 9), ("split", 2, 4)])
def test_regions_found(name: str, regions: int, steps: int) -> None:
    built = find(NETS[name]())
    assert len(built) == regions
    assert sum(len(b.steps) for b in built) == steps


@needs_library
@pytest.mark.parametrize(
    ("target", "batch", "inside"),
    [
        ([0, -1], "n", True),
        ([-1, 8 * 256], "n", True),
        ([4, -1], 4, True),
        ([4, 8 * 256], 4, True),
        ([-1, 8 * 128], 4, False),
        ([2, -1], 4, False),
        ([1, -1], "n", False),
    ],
)
def test_reshape_that_flattens(target: list[int], batch: Any, inside: bool) -> None:
    b = Builder()
    shape = b.tensor(np.array(target))
    model = b.model(b.op("Reshape", b.conv("x", 8, 3), shape), batch=batch)
    (region,) = find(model)
    assert len(region.steps) == (2 if inside else 1)


@needs_library
@pytest.mark.parametrize("name", ["residual", "mobile", "split"])
def test_a_region_file_still_runs_on_a_stock_runtime(name: str) -> None:
    model = NETS[name]()
    rewritten = rewrite(model, find(model), threads=1)
    onnx.checker.check_model(rewritten)
    assert any(n.domain == "ai.fggp" for n in rewritten.graph.node)
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    agree(plain_run(rewritten, x), plain_run(model, x))


@needs_library
def test_the_plan_is_cached(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(residual_net(), path)
    runtime.session(path, threads=1)
    (cached,) = own_cache.rglob("*.json")
    first = cached.read_text()

    def fail(*_: Any) -> None:
        raise AssertionError("a cached plan is not made again")

    monkeypatch.setattr(runtime, "_make_plan", fail)
    runtime.session(path, threads=1)
    assert cached.read_text() == first


@needs_library
def test_a_damaged_cache_is_made_again(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(residual_net(), path)
    runtime.session(path, threads=1)
    (cached,) = own_cache.rglob("*.json")
    cached.write_text('{"sparse": true, "variants": [[')
    runtime.session(path, threads=1)
    assert plans.load(cached) is not None


@needs_library
def test_dense_where_sparse_does_not_pay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "ratio_lower_bound", lambda _: 0.99)
    path = tmp_path / "m.onnx"
    model = residual_net()
    onnx.save(model, path)
    session = runtime.session(path, threads=1)
    assert not runtime.uses_kernels(session)
    x = np.zeros((1, 3, 16, 16), np.float32)
    agree(session.run(None, {"x": x}), plain_run(model, x))


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGGP_KERNELS", str(tmp_path / "none.so"))
    kernels.load.cache_clear()
    try:
        assert "not built" in kernels.status().text
        path = tmp_path / "m.onnx"
        onnx.save(pack(residual_net()), path)
        session = runtime.session(path, threads=1)
        assert not runtime.uses_kernels(session)
    finally:
        kernels.load.cache_clear()


def test_ratio_lower_bound() -> None:
    # 25 values: rank floor(12.5 - 4.9) = 7, counted from the smallest.
    assert plans.ratio_lower_bound(np.arange(25.0)) == 7.0
