"""Every format carries the same network; torch's answer is the reference."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import numpy as np
import onnx
import onnxruntime
import pytest
import scipy.sparse
import torch

from fggp_deploy.common.files import sha256_file
from fggp_deploy.errors import CheckpointError, MachineError, UnknownName
from fggp_deploy.exporters import FORMATS, load
from fggp_deploy.exporters.torch_onnx import to_onnx
from fggp_deploy.format.model import SparseModel
from fggp_deploy.verification.report_files import set_aside_report

pytestmark = pytest.mark.usefixtures("shapes_in_process")

WAYS = {
    "onnx": ("onnx", {}),
    "flat": ("onnx", {"flat": True}),
    "dense": ("onnx-dense", {}),
    "sparse_initializer": ("onnx-sparse", {}),
    "csr": ("csr", {}),
}


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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_format_gives_the_same_bits(dense, tmp_path, way, batch):
    name, options = WAYS[way]
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


def exported(model: onnx.ModelProto, path: Path, *, format: str = "onnx", **options):
    notes: list[str] = []
    load(format).export(model, nets.metadata(), path, note=notes.append, **options)
    return SparseModel.open(path), notes


def test_layers_that_no_sparse_operator_knows(tmp_path):
    net = nets.sparse_odd()
    model = to_onnx(net, nets.metadata())
    packed, notes = exported(model, tmp_path / "m.onnx")
    stored = {layer.name: (layer.op, layer.encoding) for layer in packed.layers}
    assert stored == {
        "stem": ("Conv", "gaps8"),
        "depthwise": ("Conv", "gaps8"),
        "up": ("ConvTranspose", "gaps8"),
        "volume": ("Conv", "gaps8"),
        "mix": ("Conv", "gaps8"),
        "line": ("Conv", "gaps8"),
        "linear": ("MatMul", "gaps8"),
        "no_bias": ("MatMul", "gaps8"),
        "fc": ("Gemm", "gaps8"),
    }
    assert notes == []
    assert sum(t.name.startswith("linear.weight") for t in model.graph.initializer) == 1
    ops = [n.op_type for n in onnx.load(packed.path).graph.node if n.domain]
    assert ops.count("SparseGemm") == 4
    assert ops.count("SparseConv") == 2
    assert ops.count("Ungap") == 4
    x = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)
    expected = run(model.SerializeToString(), x)
    assert run(packed.runnable(), x).tobytes() == expected.tobytes()
    assert np.allclose(expected, net(torch.from_numpy(x)).detach().numpy(), atol=1e-5)
    assert expected.std(0).max() > 0.01
    opened = run(packed.dense().SerializeToString(), x)
    assert np.allclose(opened, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flat", [False, True])
def test_fp16_values(net, dense, tmp_path, flat):
    full, _ = exported(dense, tmp_path / "full.onnx")
    half, _ = exported(dense, tmp_path / "half.onnx", values="fp16", flat=flat)
    types = {t.name: t.data_type for t in onnx.load(half.path).graph.initializer}
    values = [n for n in types if n.endswith(".values")]
    assert len(values) == 6
    assert {types[n] for n in values} == {onnx.TensorProto.FLOAT16}
    packed_bytes = sum(layer.stored_bytes for layer in half.layers)
    assert packed_bytes < 0.7 * sum(layer.stored_bytes for layer in full.layers)
    w = {t.name: onnx.numpy_helper.to_array(t) for t in half.dense().graph.initializer}
    exact = net.fc.weight.detach().numpy()
    assert np.array_equal(w["fc.weight"], exact.astype(np.float16).astype(np.float32))

    test, unrounded = half.metadata.selftest, half.metadata.unrounded
    assert test is not None
    assert unrounded is not None
    assert unrounded.to_dict() == nets.metadata().selftest.to_dict()
    x = test.images()
    assert np.array_equal(x, unrounded.images())
    got = run(half.runnable(), x)
    assert test.passes({"logits": got})
    true = run(full.runnable(), x)
    assert 0 < np.abs(got - true).max() < 2e-3 * np.abs(true).max()


def test_fp16_cannot_hold_everything(net, dense, tmp_path):
    large = onnx.ModelProto()
    large.CopyFrom(dense)
    for t in large.graph.initializer:
        if t.name == "grouped.weight":
            w = onnx.numpy_helper.to_array(t).copy()
            w.reshape(-1)[np.flatnonzero(w)[0]] = 65505
            t.CopyFrom(onnx.numpy_helper.from_array(w, t.name))
    half, notes = exported(large, tmp_path / "half.onnx", values="fp16")
    lines = [n for n in notes if n.startswith("left fp32")]
    assert lines == ["left fp32: grouped.weight: it holds 6.55e+04, float16 ends at 65504"]
    types = {t.name: t.data_type for t in onnx.load(half.path).graph.initializer}
    assert types["grouped.weight.values"] == onnx.TensorProto.FLOAT
    assert types["fc.weight.values"] == onnx.TensorProto.FLOAT16


def test_sparse_initializer_is_standard_and_says_what_it_costs(net, dense, tmp_path):
    packed, _ = exported(dense, tmp_path / "m.onnx")
    sparse, (note,) = exported(dense, tmp_path / "s.onnx", format="onnx-sparse")
    model = onnx.load(sparse.path)
    assert {o.domain for o in model.opset_import} == {""}
    assert {s.values.name for s in model.graph.sparse_initializer} == {
        layer.name + ".weight" for layer in packed.layers
    }
    nnz = sum(int(np.count_nonzero(p.detach())) for p in net.parameters() if p.ndim > 1)
    assert sum(layer.stored_bytes for layer in sparse.layers) == 12 * nnz
    assert packed.file_bytes() < sparse.file_bytes() < dense.ByteSize()
    assert f"{sparse.file_bytes():,} bytes" in note
    assert "makes it dense" in note


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


def report_of(model: Path, sha256: str) -> None:
    reported = {"model": {"name": model.name, "sha256": sha256}}
    (model.parent / "report.json").write_text(json.dumps(reported))
    (model.parent / "report.md").write_text("# PASSED")


def test_a_report_of_the_file_before_is_set_aside(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(b"new")
    assert set_aside_report(model) is None

    report_of(model, sha256_file(model))  # of this very file
    assert set_aside_report(model) is None
    report_of(tmp_path / "other.onnx", "a" * 64)  # of a neighbor
    assert set_aside_report(model) is None
    assert (tmp_path / "report.md").exists()

    other = tmp_path / "other.onnx.report.json"  # the neighbor's has a name of its own
    other.write_text(json.dumps({"model": {"name": "other.onnx", "sha256": "b" * 64}}))
    (tmp_path / "other.onnx").write_bytes(b"new")
    report_of(model, sha256_file(model))
    assert set_aside_report(tmp_path / "other.onnx") == (tmp_path / "other.onnx.report-bbbbbbbb.md")
    other.with_name("other.onnx.report-bbbbbbbb.json").unlink()
    (tmp_path / "other.onnx").unlink()

    report_of(model, "0123456789abcdef" * 4)
    (tmp_path / "report.html").write_text("<p>")
    assert set_aside_report(model) == tmp_path / "report-01234567.md"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "m.onnx", "report-01234567.html", "report-01234567.json", "report-01234567.md",
    ]  # fmt: skip
    assert (tmp_path / "report-01234567.md").read_text() == "# PASSED"


@pytest.mark.parametrize(
    "report", ["", "[]", "{}", '{"model": {"name": "m.onnx", "sha256": "/.."}}']
)
def test_a_report_that_is_none_of_ours_stays(tmp_path, report):
    (tmp_path / "m.onnx").write_bytes(b"new")
    (tmp_path / "report.json").write_text(report)
    assert set_aside_report(tmp_path / "m.onnx") is None
    assert (tmp_path / "report.json").read_text() == report
