"""Every format carries the same network; torch's answer is the reference."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnxruntime
import pytest
import scipy.sparse
import torch

from fggp_deploy.artifacts.sparse_model import SparseModel
from fggp_deploy.errors import CheckpointError, MachineError, UnknownName
from fggp_deploy.exporters import FORMATS, load
from fggp_deploy.exporters.torch_onnx import to_onnx

WAYS = [("onnx", {}), ("onnx", {"flat": True}), ("onnx-dense", {}), ("csr", {})]


@pytest.fixture(scope="module")
def net() -> nets.Small:
    return nets.sparse_small()


@pytest.fixture(scope="module")
def dense(net) -> onnx.ModelProto:
    return to_onnx(net, nets.metadata())


def run(serialized: bytes, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def test_folded_graph_keeps_names_zeros_and_answers(net, dense):
    ops = {n.op_type for n in dense.graph.node}
    assert "BatchNormalization" not in ops
    assert {"conv1", "strided", "grouped", "dilated", "shortcut.0", "fc"} <= {
        n.name for n in dense.graph.node
    }
    assert dense.ir_version <= 10
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in dense.graph.initializer}
    for name, p in net.named_parameters():
        if p.ndim > 1:
            removed = p.detach().numpy() == 0
            assert (weights[name][removed] == 0).all()
            assert not np.signbit(weights[name][removed]).any()
    x = torch.randn(5, 3, 12, 12)
    got = run(dense.SerializeToString(), x.numpy())
    assert np.allclose(got, net(x).detach().numpy(), atol=1e-5)


def test_no_paths_of_this_machine(dense):
    text = dense.SerializeToString()
    assert b".py" not in text
    assert b"site-packages" not in text


def test_exporting_is_quiet_and_leaves_the_model_alone(capfd):
    net = nets.sparse_small().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    to_onnx(net, nets.metadata())
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "options"), WAYS, ids=["onnx", "flat", "dense", "csr"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_format_gives_the_same_bits(dense, tmp_path, name, options, batch):
    module = load(name)
    path = module.export(dense, nets.metadata(), tmp_path / module.DEFAULT_NAME, **options)
    model = SparseModel.open(path)
    x = np.random.default_rng(batch).standard_normal((batch, 3, 12, 12)).astype(np.float32)
    expected = run(dense.SerializeToString(), x).tobytes()
    assert run(model.runnable(), x).tobytes() == expected
    assert run(model.dense().SerializeToString(), x).tobytes() == expected
    assert model.metadata.to_props() == nets.metadata().to_props()
    assert {layer.name for layer in model.layers} >= {"conv1", "grouped", "fc"}


def test_same_input_same_bytes(dense, tmp_path):
    for name in FORMATS:
        module = load(name)
        a = module.export(dense, nets.metadata(), tmp_path / "a" / module.DEFAULT_NAME)
        b = module.export(dense, nets.metadata(), tmp_path / "b" / module.DEFAULT_NAME)
        files = [a] if a.is_file() else sorted(p for p in a.rglob("*") if p.is_file())
        for file in files:
            twin = b if a.is_file() else b / file.relative_to(a)
            assert file.read_bytes() == twin.read_bytes()


def test_scipy_alone_reads_the_csr_folder(net, dense, tmp_path):
    path = load("csr").export(dense, nets.metadata(), tmp_path / "m.csr")
    w = scipy.sparse.load_npz(path / "weights/fc.weight.npz")
    assert w.format == "csr"
    assert np.array_equal(w.toarray(), net.fc.weight.detach().numpy())
    onnx.checker.check_model(onnx.load(path / "graph.onnx"), full_check=True)


def test_unknown_format_gets_a_suggestion():
    with pytest.raises(UnknownName, match="onnx-dense"):
        load("onnx_dense")


def test_nan_weight_is_refused():
    net = nets.sparse_small()
    with torch.no_grad():
        net.fc.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"fc\.weight"):
        to_onnx(net, nets.metadata())


def test_a_write_that_fails_leaves_what_was_there(dense, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(MachineError):
        load("onnx").export(dense, nets.metadata(), blocked / "m.onnx")
    assert blocked.read_text() == "x"
