"""Verification without data of networks that are not image classifiers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import Builder
from onnx import ModelProto, TensorProto, helper
from typer.testing import CliRunner

from fggp_deploy.cli.main import app
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.exporters.pack import pack_file
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.self_test import KEY
from fggp_deploy.verification.any_network import verify_outputs
from fggp_deploy.verification.gates import Gates
from fggp_deploy.verification.options import VerifyOptions

QUICK = VerifyOptions(threads=[1], batches=[1], seconds=0.01)


def two_outputs() -> ModelProto:
    """An image and an index in; a table of scores and a plane out."""
    b = Builder()
    y = b.op("Relu", b.conv("x", 32, 3))
    table = b.op("Gather", b.weight(8, 32, density=1), "index")
    scores = b.op("Add", b.op("ReduceMean", y, b.tensor(np.array([2, 3])), keepdims=0), table)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])
    index = helper.make_tensor_value_info("index", TensorProto.INT64, [1])
    made = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in ((y, [1, 32, 16, 16]), (scores, [1, 32]))
    ]
    graph = helper.make_graph(b.nodes, "g", [image, index], made, b.tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A packed file of two inputs and outputs, and its source."""
    source = tmp_path_factory.mktemp("any") / "other.onnx"
    onnx.save(two_outputs(), source)
    return pack_file(source).path, source


def test_a_file_is_verified_against_its_dense_model(files: tuple[Path, Path]) -> None:
    path, source = files
    found = verify_outputs(
        SparseModel.open(path), reference=source, limits=Gates(max_bytes=10**6), options=QUICK
    )
    assert found.passed
    assert [v.name for v in found.verdicts][:2] == ["self-test", "packed against dense"]
    assert [v.name for v in found.verdicts][-1] == "max_bytes"
    assert len(found.inputs) == len(found.changes) == 2
    assert all(c.error < 1e-5 and c.cosine == pytest.approx(1) for c in found.changes)
    assert sorted((c.top1 for c in found.changes), key=str) == [1.0, None]
    assert {"model", "reference"} <= found.latency.timings.keys()
    assert found.processes["model"].peak_rss_bytes > 0
    assert json.loads(json.dumps(found.to_dict()))["passed"]
    assert "needs data and a metric" in found.notes[-1]


def test_a_wrong_output_fails(files: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(files[0])
    (stored,) = (p for p in model.metadata_props if p.key == KEY)
    test = json.loads(stored.value)
    test["outputs"][0]["values"][3] += 1
    stored.value = json.dumps(test)
    onnx.save(model, tmp_path / "wrong.onnx")
    found = CliRunner().invoke(
        app, ["verify", str(tmp_path / "wrong.onnx"), "--seconds", "0.01", "--threads", "1"]
    )
    assert found.exit_code == 1, found.output
    assert "FAIL  self-test" in found.output


def test_what_needs_data_says_so(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="lost accuracy needs labeled data and a metric"):
        verify_outputs(SparseModel.open(files[0]), limits=Gates(max_drop_points=1), options=QUICK)
    found = CliRunner().invoke(app, ["verify", str(files[0]), "--data", "cifar10"])
    assert found.exit_code == 2
    with pytest.raises(ModelFileError, match="is not a file"):
        verify_outputs(SparseModel.open(files[0]), reference=files[0] / "none", options=QUICK)
