"""A small model made by hand, its data, and a quick verification of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fggp_deploy.common.files import sha256_file
from fggp_deploy.data.types import Dataset, Preprocessing, Split
from fggp_deploy.exporters import csr
from fggp_deploy.exporters import onnx as packed_onnx
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.measure.network import Network, load
from fggp_deploy.measure.process import Cost
from fggp_deploy.report import sections
from fggp_deploy.report.markdown import markdown as render
from fggp_deploy.verification import speed
from fggp_deploy.verification.options import VerifyOptions
from fggp_deploy.verification.report import Report
from fggp_deploy.verification.verify import verify

SIDE, CLASSES, N_TEST = 8, 6, 300


PREPROCESSING = Preprocessing(SIDE, SIDE, (0.5,), (0.25,))
QUICK = VerifyOptions(threads=(1,), batches=(1,), seconds=0.001)


def network(sparsity: float, classes: int = CLASSES, side: int = SIDE) -> onnx.ModelProto:
    """A convolution, a mean over the image and a linear layer; the same seed in every sparsity."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        w = rng.standard_normal(shape).astype(np.float32)
        w[rng.random(shape) < sparsity] = 0
        return numpy_helper.from_array(w, name)

    nodes = [
        helper.make_node("Conv", ["input", "a.weight"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "b.weight"], ["b"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], transB=1),
    ]
    weights = [
        weight("a.weight", 64, 1, 3, 3),
        weight("b.weight", 64, 64, 3, 3),
        weight("fc.weight", classes, 64),
        numpy_helper.from_array(np.zeros(classes, np.float32), "fc.bias"),
    ]
    x = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, side, side])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def dataset(side: int = SIDE, classes: int = CLASSES, n: int = N_TEST) -> Dataset:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (n, side, side, 1), dtype=np.uint8)
    test = Split(images, rng.integers(0, classes, n))
    empty = Split(images[:0], test.labels[:0])
    names = tuple(f"c{i}" for i in range(classes))
    pre = Preprocessing(side, side, (0.5,), (0.25,))
    return Dataset("random", names, empty, empty, test, pre)


def metadata(dense: onnx.ModelProto, **others) -> Metadata:
    run = load("dense", dense.SerializeToString(), threads=1).logits
    recorded = SelfTest.of_classifier(run, PREPROCESSING.input_shape)
    names = tuple(f"c{i}" for i in range(CLASSES))
    return Metadata(PREPROCESSING, names, recorded, data="random", model="hand", **others)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """model.onnx, model.csr, and the dense model as reference.onnx whose hash both carry."""
    (tmp_path / "reference.onnx").write_bytes(network(0.0).SerializeToString())
    meta = metadata(
        network(0.95), provenance={"reference_sha256": sha256_file(tmp_path / "reference.onnx")}
    )
    packed_onnx.export(network(0.95), meta, tmp_path / "model.onnx")
    csr.export(network(0.95), meta, tmp_path / "model.csr")
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """`verify` on one thread, briefly, without fresh processes and without kernels.

    Whether kernels are used is for a measurement to decide, and no test may hang on one.
    """
    monkeypatch.setenv("FGGP_KERNELS", "none")

    def no_processes(models, **options):
        return {name: Cost(3, 1.0, 1.0, 1.0, 9, 9, 9, 5, 2.0, 2.0, 2.0) for name in models}

    monkeypatch.setattr(speed, "measure_processes", no_processes)

    def run(path: Path, *, reference=None, data=None, gates=None, original=None, **options):
        return verify(
            path,
            reference=reference,
            data=data,
            gates=gates,
            original=original,
            options=QUICK if not options else dataclasses.replace(QUICK, **options),
        )

    return run


@dataclasses.dataclass(frozen=True)
class Original:
    """The network that a file was made from, as a test supplies it."""

    onnx: onnx.ModelProto | None = None
    torch: Network | None = None

    def in_torch(self) -> Network | None:
        return self.torch

    def as_onnx(self) -> onnx.ModelProto | None:
        return self.onnx


def markdown(found: Report) -> str:
    return render(sections.page(found))


def damage(path: Path, name: str, change) -> None:
    model = onnx.load(path)
    (tensor,) = [t for t in model.graph.initializer if t.name == name]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    path.write_bytes(model.SerializeToString())
