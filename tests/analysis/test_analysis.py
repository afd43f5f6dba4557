"""compare, sensitivity and explain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import Builder
from onnx import TensorProto, helper, numpy_helper
from verified import PREPROCESSING, dataset, metadata, network

from fggp_deploy.analysis import compare as comparison
from fggp_deploy.analysis.compare import Candidate, Measure, compare
from fggp_deploy.analysis.compare_page import page as compare_page
from fggp_deploy.analysis.explain import explain
from fggp_deploy.analysis.explain_page import findings
from fggp_deploy.analysis.explain_page import page as explain_page
from fggp_deploy.analysis.sensitivity import Drop, sensitivity, smallest_removed, worth_sparing
from fggp_deploy.analysis.sensitivity_page import page as sensitivity_page
from fggp_deploy.data.types import Split
from fggp_deploy.errors import ConfigError, FileError, ModelFileError
from fggp_deploy.exporters import onnx as packed_onnx
from fggp_deploy.exporters import onnx_dense
from fggp_deploy.exporters.options import PackOptions
from fggp_deploy.exporters.pack import pack_file
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.packing import pack
from fggp_deploy.measure import evaluate
from fggp_deploy.measure.network import load
from fggp_deploy.measure.statistics import proportion
from fggp_deploy.report.files import write_report
from fggp_deploy.report.html import html
from fggp_deploy.verification.options import VerifyOptions
from fggp_deploy.verification.verify import verify

pytestmark = pytest.mark.usefixtures("shapes_in_process")


@pytest.fixture(scope="module")
def verified(tmp_path_factory) -> Path:
    """Two verified run folders of one parent, at 80% and 95%."""
    root = tmp_path_factory.mktemp("verified")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FGGP_KERNELS", "none")
        for sparsity in (0.8, 0.95):
            place = root / f"r{sparsity}"
            place.mkdir()
            (place / "reference.onnx").write_bytes(network(0.0).SerializeToString())
            packed_onnx.export(network(sparsity), metadata(network(sparsity)), place / "model.onnx")
            found = verify(
                place / "model.onnx",
                data=dataset(n=60),
                options=VerifyOptions(
                    threads=(1,), batches=(1,), seconds=0.001, robustness="quick"
                ),
            )
            write_report(found, place)
    return root


@pytest.fixture
def runs(verified, tmp_path) -> list[Path]:
    """Copies of both, to be damaged."""
    shutil.copytree(verified, tmp_path / "runs")
    return [tmp_path / "runs" / "r0.8", tmp_path / "runs" / "r0.95"]


def test_compare_reads_what_verify_wrote(runs):
    found = compare([runs[1], runs[0] / "model.onnx"])
    names = [c.name for c in found.candidates]
    assert names == ["dense model", str(runs[0] / "model.onnx"), str(runs[1])]
    content = json.loads((runs[1] / "report.json").read_text())
    sparse = found.candidates[2]
    assert sparse.file_bytes == content["model"]["file_bytes"]
    assert sparse.top1.value == content["accuracy"]["model"]["top1"]["value"]
    assert sparse.latency_ms.value == content["latency"]["timings"]["model"]["median_ms"]
    assert set(found.potential) == {"test", *(s["kind"] for s in content["robustness"]["shifts"])}
    page = html(compare_page(found))
    assert page.count("<svg") == 3
    assert "Prune potential" in page


def test_the_parent_in_int8_is_a_candidate_but_nothing_pruned(runs):
    first, content = (json.loads((run / "report.json").read_text()) for run in runs)
    content["latency"]["timings"]["int8"] = first["latency"]["timings"]["reference"]
    top1 = content["accuracy"]["reference"]["top1"]
    content["int8"] = {"file_bytes": 7, "scores": {"top1": top1}}
    (runs[1] / "report.json").write_text(json.dumps(content))
    plain, found = compare([runs[0], runs[0]]), compare(runs)
    (int8,) = [c for c in found.candidates if c.name == "dense int8"]
    assert (int8.file_bytes, int8.top1.value) == (7, top1["value"])
    (parent,) = [c for c in found.candidates if c.name == "dense model"]
    assert parent.beaten_by == "dense int8"  # as accurate, as fast, and smaller
    assert set(found.potential) == {"test", *(s["kind"] for s in content["robustness"]["shifts"])}
    assert "dense int8" not in [c.name for c in plain.candidates]


def test_reports_from_a_busy_machine_are_noted(runs):
    assert not any("too busy" in note for note in compare(runs).notes)
    content = json.loads((runs[1] / "report.json").read_text())
    content["latency"]["timings"]["model"]["held_up"] = 0.9
    (runs[1] / "report.json").write_text(json.dumps(content))
    assert any(note.startswith("1 of the reports") for note in compare(runs).notes)


def test_files_measured_on_different_images_are_not_ranked(runs):
    content = json.loads((runs[1] / "report.json").read_text())
    content["accuracy"]["data"] = "others"
    (runs[1] / "report.json").write_text(json.dumps(content))
    found = compare(runs)
    assert not found.judged
    assert {c.beaten_by for c in found.candidates} == {None}
    assert found.potential == {}
    page = html(compare_page(found))
    assert "so they are not ranked" in page
    assert "not beaten" not in page


def candidate(name: str, sparsity: float, top1: float, ms: float, size: int) -> Candidate:
    return Candidate(name, sparsity, size, Measure(top1, 0, 1), Measure(ms, ms, ms),
                     {"test": 1 - top1, "fog": 1.2 * (1 - top1)})  # fmt: skip


def test_pareto_and_potential_by_hand():
    found = [
        candidate("dense model", 0.0, 0.900, 4.0, 100),
        candidate("a", 0.8, 0.897, 3.0, 40),
        candidate("b", 0.9, 0.890, 2.0, 20),
        candidate("c", 0.95, 0.880, 2.0, 20),  # b is more accurate, no slower, no larger
    ]
    beaten = {c.name: c.beaten_by for c in comparison._judged(found)}
    assert beaten == {"dense model": None, "a": None, "b": None, "c": "b"}
    # errors 0.100; 0.103 within 0.5 points, 0.110 not. In fog 0.1200; 0.1236 is, 0.132 is not
    assert comparison._potential(found) == {"test": 0.8, "fog": 0.8}
    assert comparison._potential(found[:2]) == {}


@pytest.mark.parametrize("content", ["{}", '{"schema_version": 2}', "garbage"])
def test_compare_refuses_what_is_no_report(runs, content):
    (runs[0] / "report.json").write_text(content)
    with pytest.raises(FileError):
        compare(runs)


def test_compare_refuses_mistakes(runs, tmp_path):
    with pytest.raises(ConfigError, match="at least two"):
        compare(runs[:1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="verify"):
        compare([runs[0], tmp_path / "empty"])
    content = json.loads((runs[0] / "report.json").read_text())
    (runs[0] / "report.json").write_text(json.dumps(content | {"latency": {"timings": {}}}))
    with pytest.raises(FileError, match="a report has no valid value for 'model'"):
        compare(runs)
    (runs[0] / "report.json").write_text(
        json.dumps(content | {"model": content["model"] | {"sha256": "x"}})
    )
    with pytest.raises(FileError, match=r"describes a file that is not .*model\.onnx"):
        compare(runs)


def test_smallest_removed_by_hand():
    w = np.float32([[3, -1], [1, -2]])
    assert smallest_removed(w, 0.25).tolist() == [[3, 0], [1, -2]]  # the tie goes to the first
    assert smallest_removed(w, 0.5).tolist() == [[3, 0], [0, -2]]
    assert w[0, 1] == -1


def drop(points: float, p: float) -> Drop:
    return Drop(0.9, proportion(1, 2), points, points - 1, points + 1, p)


def test_worth_sparing_by_hand():
    layers = [
        (0.01, drop(5, 1e-9)),  # 500 points a weight share: first
        (0.04, drop(10, 1e-9)),  # 250: second, together 0.05
        (0.02, drop(4, 1e-9)),  # 200: no budget left
        (0.01, drop(9, 0.06)),  # no more than chance
        (0.01, drop(0.5, 1e-9)),  # within the tolerance
        (0.91, drop(50, 1e-9)),
    ]
    assert worth_sparing(layers, tolerance_points=1, budget=0.0501) == {0, 1}
    assert worth_sparing(layers, tolerance_points=1, budget=0.02) == {0}
    assert worth_sparing(layers, tolerance_points=1, budget=0) == set()


def test_sensitivity_is_that_of_the_layer_alone(folder):
    dense = network(0.0)
    path = onnx_dense.export(dense, metadata(dense), folder / "d" / "dense.onnx")
    images = dataset().test.images
    net = load("net", dense.SerializeToString(), threads=1)
    y = net.logits(PREPROCESSING(images)).argmax(1)
    found = sensitivity(SparseModel.open(path), Split(images, y), data="random",
                        sparsities=(0.5, 0.99))  # fmt: skip
    assert [x.name for x in found.layers] == ["a", "b", "fc"]
    assert sum(x.share for x in found.layers) == pytest.approx(1)
    assert found.top1.value == 1
    pruned = network(0.0)
    tensor = pruned.graph.initializer[1]
    w = smallest_removed(numpy_helper.to_array(tensor), 0.99)
    tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
    alone = load("pruned", pruned.SerializeToString(), threads=1)
    right = alone.logits(PREPROCESSING(images)).argmax(1) == y
    last = found.layers[1].drops[-1]
    assert last.top1.k == right.sum()
    assert last.drop_points == pytest.approx(100 * (1 - right.mean()))
    assert "Layers to keep dense" in html(sensitivity_page(found))
    again = evaluate.logits(net, Split(images, y), PREPROCESSING)
    assert (again.argmax(1) == y).all()


@pytest.mark.parametrize(
    "options", [{"sparsities": ()}, {"sparsities": (1.0,)}, {"tolerance_points": -1}, {"budget": 2}]
)
def test_sensitivity_options_out_of_domain(folder, options):
    with pytest.raises(ConfigError):
        sensitivity(SparseModel.open(folder / "model.onnx"), dataset().test, data="x", **options)


def test_explain_a_foreign_dense_file(tmp_path):
    """No metadata of ours, zeros stored: what packing gives is what pack makes."""
    path = tmp_path / "theirs.onnx"
    path.write_bytes(network(0.95).SerializeToString())
    found = explain(path, seconds=0)
    assert found.packed_bytes == pack(network(0.95)).ByteSize()
    assert found.file_bytes == path.stat().st_size
    assert found.speed is None
    b = next(w for w in found.weights if w.name == "b")
    w = numpy_helper.to_array(network(0.95).graph.initializer[1])
    assert b.sparsity == pytest.approx((w == 0).mean())
    assert b.macs == 8 * 8 * w.size
    assert b.stored_bytes == w.nbytes > b.packed_bytes
    assert "multiplied" in b.why
    macs = {w.name: (w.macs, 1 - w.sparsity) for w in found.weights}
    total = sum(m for m, _ in macs.values())
    assert found.macs_left == pytest.approx(sum(m * d for m, d in macs.values()) / total)
    assert "(measured, by packing it)" in findings(found)[0]
    assert any("estimate" in f for f in findings(found))


def test_explain_what_is_dense_and_what_is_packed(tmp_path, folder):
    path = tmp_path / "dense.onnx"
    path.write_bytes(network(0.0).SerializeToString())
    dense = explain(path, seconds=0)
    assert "would save nothing" in findings(dense)[0]
    assert all(w.why.startswith("dense") for w in dense.weights)
    packed = explain(folder / "model.onnx", seconds=0)
    assert "is packed" in findings(packed)[0]
    assert any(w.why.startswith("packed for size") for w in packed.weights)
    assert "<svg" in html(explain_page(packed))


def test_explain_names_zeros_that_nothing_exploits(tmp_path):
    """A transposed convolution and an int8 weight, both mostly zero; one dead channel."""
    w = np.zeros((8, 8, 3, 3), np.float32)
    w[0, 0] = 1
    q = np.zeros((6, 8), np.int8)
    q[1:, 0] = 1
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["y"]),
        helper.make_node("GlobalAveragePool", ["y"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["d"]),
        helper.make_node("Gemm", ["f", "d"], ["z"], transB=1),
    ]
    tensors = [
        numpy_helper.from_array(w, "w"), numpy_helper.from_array(q, "q"),
        numpy_helper.from_array(np.float32(1), "scale"),
    ]  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 4, 4])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 6])
    graph = helper.make_graph(nodes, "g", [x], [z], tensors)
    path = tmp_path / "odd.onnx"
    opset = [helper.make_opsetid("", 18)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    )
    found = {w.name: w for w in explain(path, seconds=0).weights}
    assert "no sparse kernel for ConvTranspose" in found["w"].why
    assert "can be packed for size; there is no sparse kernel for int8" in found["q"].why
    assert found["q"].dead_channels == 1
    assert found["w"].macs == (8 * 4 * 4) * (8 * 3 * 3)  # each input is spread over 72 outputs
    assert found["q"].macs == 6 * 8


def test_explain_names_what_would_make_the_file_smaller(tmp_path):
    """Of 64 channels between two convolutions, 8 are zero throughout; no sum needs them."""
    model = network(0.5)
    a, b = (numpy_helper.to_array(t).copy() for t in model.graph.initializer[:2])
    a[:8] = 0
    for i, w in enumerate((a, b)):
        tensor = model.graph.initializer[i]
        tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    found = explain(path, seconds=0)
    assert found.compaction.n_channels == 8
    macs = [8 * 8 * 9 * 64, 8 * 8 * 9 * 64 * 64, 64 * 6]
    left = 56 / 64 * sum(macs[:2]) + macs[2]
    assert found.compaction.macs_left == pytest.approx(left / sum(macs))
    assert found.compaction.packed_bytes < found.packed_bytes
    content = " ".join(findings(found))
    assert "8 output channels are zero throughout. `pack --compact` removes 8 channels" in content
    made = pack_file(path, tmp_path / "small.onnx", PackOptions(values="int8"))
    assert found.int8_bytes == pytest.approx(made.file_bytes, rel=0.1)  # which has metadata too
    assert "`pack --values int8` would make it" in content
    rounded = explain(made.path, seconds=0)
    assert "--values int8" not in " ".join(findings(rounded))  # it has that
    assert "`export --compact` (or `pack --compact` of its source)" in " ".join(findings(rounded))


def test_explain_does_not_promise_what_compaction_cannot_do(tmp_path):
    """Two dead classes: an output needs all its channels."""
    model = network(0.5)
    w = np.ones((6, 64), np.float32)
    w[:2] = 0
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(w, "fc.weight"))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    found = explain(path, seconds=0)
    assert found.compaction is None
    (content,) = [f for f in findings(found) if "zero throughout" in f]
    assert content.startswith("2 output channels are zero throughout. `--compact` removes none")


def test_explain_measures(tmp_path, monkeypatch):
    monkeypatch.setenv("FGGP_KERNELS", "none")
    path = tmp_path / "net.onnx"
    path.write_bytes(network(0.95).SerializeToString())
    found = explain(path, seconds=0.001)
    assert found.speed.stock_ms > 0
    assert found.speed.ratio is None
    assert "(measured)" in findings(found)[-1]


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_explain_refuses_what_is_no_onnx(tmp_path, content):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError) as e:
        explain(path, seconds=0)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("op", "x", "w", "y", "macs"),
    [
        ("MatMul", ["n", 5], [5, 7], ["n", 7], 7 * 5),
        ("MatMul", [2, 3, 5], [2, 5, 7], [2, 3, 7], 210),  # 42 outputs of 5 products each
        ("MatMul", [5, 9], [4, 5], [4, 9], 180),  # the weight is on the left: 36 outputs
        ("ConvTranspose", [1, 4, 8, 8], [4, 6, 3, 3], [1, 6, 10, 10], 13824),  # 256 inputs, 54 each
    ],
)
def test_explain_counts_macs_by_hand(tmp_path, op, x, w, y, macs):
    inputs = ["w", "x"] if w == [4, 5] else ["x", "w"]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.ones(w, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    (only,) = explain(tmp_path / "m.onnx", seconds=0).weights
    assert only.macs == macs


def test_a_bias_of_two_dimensions_has_no_macs(tmp_path):
    b = Builder()
    y = b.op("Gemm", b.op("Flatten", "x"), b.weight(48, 7), b.tensor(np.ones((1, 7), np.float32)))
    onnx.save(b.model(y, size=4), tmp_path / "m.onnx")
    weight, bias = explain(tmp_path / "m.onnx", seconds=0).weights
    assert (weight.macs, bias.macs) == (48 * 7, None)
