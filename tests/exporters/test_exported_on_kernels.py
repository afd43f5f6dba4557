"""An exported file, fp32, fp16 or int8, gives the same answers wherever it runs."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from fggp_deploy import kernels, runtime
from fggp_deploy.exporters import load
from fggp_deploy.exporters.torch_onnx import to_onnx

pytestmark = pytest.mark.usefixtures("shapes_in_process")

if kernels.library_path() is None:
    pytest.skip("no kernel library", allow_module_level=True)

NETWORKS = {"small": nets.sparse_small, "odd": nets.sparse_odd}
X = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module", params=NETWORKS)
def dense(request) -> onnx.ModelProto:
    return to_onnx(NETWORKS[request.param](), nets.metadata())


def session(path: Path, *, registered: bool, optimized: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if registered:
        options.register_custom_ops_library(str(kernels.library_path()))
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_stock_registered_and_regions_agree(dense, tmp_path, monkeypatch, values):
    path = load("onnx").export(dense, nets.metadata(), tmp_path / "m.onnx", values=values)
    (stock,) = session(path, registered=False).run(None, {"input": X})
    bound = 1e-5 * np.abs(stock).max()
    bare = session(path, registered=True, optimized=tmp_path / "o.onnx")
    assert np.abs(bare.run(None, {"input": X})[0] - stock).max() <= bound
    left = [n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node if n.domain == "ai.fggp"]
    asked = [n.op_type for n in onnx.load(path).graph.node if n.op_type.startswith("Sparse")]
    assert sorted(left) == sorted(asked) != []  # kernels took every sparse node, no Ungap is left

    fast = runtime.session(path, threads=1, measure=False, cache=False)
    assert runtime.uses_kernels(fast)
    assert np.abs(fast.run(None, {"input": X})[0] - stock).max() <= bound

    monkeypatch.setenv("FGGP_KERNELS", str(tmp_path / "none"))  # a machine without the library
    kernels.load.cache_clear()
    plain = runtime.session(path, threads=1, cache=False)
    kernels.load.cache_clear()
    assert not runtime.uses_kernels(plain)
    assert np.abs(plain.run(None, {"input": X})[0] - stock).max() <= bound
