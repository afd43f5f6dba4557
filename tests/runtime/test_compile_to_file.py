"""`fggp-deploy compile`: one file, stock and on the kernels, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import golden_files as golden
import nets
import numpy as np
import onnx
import pytest
from graphs import NETS, Builder, detector_net, residual_net
from onnx import ModelProto, helper

from fggp_deploy import kernels, runtime
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.exporters import load
from fggp_deploy.exporters.torch_onnx import to_onnx
from fggp_deploy.format.compiled import expand
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.packing import pack
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.runtime import measured_planning, selection
from fggp_deploy.runtime.compile_to_file import compile_file
from fggp_deploy.runtime.selection import Selection
from fggp_deploy.runtime.sessions import SessionConfig

if kernels.library_path() is None:
    pytest.skip("no kernel library", allow_module_level=True)

X = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)


pytestmark = pytest.mark.usefixtures("own_cache")


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.fixture(params=NETS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(pack(NETS[request.param]()), path)
    return path


def test_scores_that_are_nearly_zero_compile(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(pack(detector_net()), path)
    assert compile_file(path, measure=False).layers == 7


def test_runs_on_stock_and_on_the_kernels(source: Path) -> None:
    made = compile_file(source, threads=2, measure=False)
    assert made.path == source.with_name("m.compiled.onnx")
    assert made.speedup is None
    assert not made.self_test
    onnx.checker.check_model(onnx.load(made.path), full_check=False)
    want = SessionConfig(1).open(source).run(None, {"x": X})
    for on_kernels in (False, True):
        got = SessionConfig(1).open(made.path, on_kernels=on_kernels).run(None, {"x": X})
        for g, w in zip(got, want, strict=True):
            close(g, w)


@pytest.mark.parametrize("source", ["residual", "mobile"], indirect=True)  # bn folds its weight
def test_the_same_weights_come_back(source: Path) -> None:
    made = compile_file(source, measure=False)
    before, after = (
        {t.name: t for t in unpack(onnx.load(p)).graph.initializer} for p in (source, made.path)
    )
    for name, tensor in before.items():
        w = onnx.numpy_helper.to_array(tensor)
        if w.ndim == 4 and w.shape[1] > 1 and not w.all():
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(after[name]) == 0, w == 0)


def test_session_takes_it_as_it_is(tmp_path: Path, own_cache: Path) -> None:
    onnx.save(residual_net(), tmp_path / "m.onnx")
    made = compile_file(tmp_path / "m.onnx", measure=False)
    session = runtime.session(made.path, threads=1)
    assert runtime.uses_kernels(session)
    assert runtime.explain(session).startswith("kernels: as the file was compiled for ")
    assert not list(own_cache.rglob("*.onnx"))
    close(session.run(None, {"x": X})[0], SessionConfig(1).open(made.path).run(None, {"x": X})[0])


def test_without_the_library_it_is_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(residual_net(), tmp_path / "m.onnx")
    made = compile_file(tmp_path / "m.onnx", measure=False)
    monkeypatch.setenv("FGGP_KERNELS", str(tmp_path / "none"))
    kernels.load.cache_clear()
    session = runtime.session(made.path, threads=1)
    kernels.load.cache_clear()
    assert not runtime.uses_kernels(session)
    assert session.run(None, {"x": X})[0].shape == (3, 10)


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_an_exported_file_keeps_its_metadata_and_its_size(tmp_path: Path, values: str) -> None:
    dense = to_onnx(nets.sparse_small(), nets.metadata())
    (test,) = (nets.metadata().selftest,)
    assert test is not None
    network = SessionConfig(1).open(dense.SerializeToString())
    (logits,) = network.run(None, {"input": test.images()})
    again = SelfTest.of_logits(test.seed, logits, (3, 12, 12))
    meta = dataclasses.replace(nets.metadata(), selftest=again)
    path = load("onnx").export(dense, meta, tmp_path / "m.onnx", values=values)
    made = compile_file(path, tmp_path / "fast.onnx", measure=False)
    assert made.self_test
    assert made.kernels_error < 1e-5
    assert made.file_bytes < path.stat().st_size + 8192
    old, new = SparseModel.open(path), SparseModel.open(made.path)
    assert new.metadata.classes == old.metadata.classes
    assert {(x.name, x.nnz, x.shape) for x in new.layers if x.nnz < x.size} == {
        (x.name, x.nnz, x.shape) for x in old.layers if x.nnz < x.size
    }


def test_layers_that_onnxruntime_keeps_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = Builder()
    y = b.op("Relu", b.conv("x", 64, 3))
    y = b.op("Relu", b.conv(y, 64, 64))
    model = b.model(b.conv(y, 64, 64))
    onnx.save(pack(model), tmp_path / "m.onnx")
    last = model.graph.node[-1].output[0]
    monkeypatch.setattr(measured_planning, "leave_to_ort", lambda costs, entering: {last})

    def instead(contenders: dict) -> Selection:
        return Selection("cut", 2.0, 3.0)

    monkeypatch.setattr(selection, "choose", instead)
    made = compile_file(tmp_path / "m.onnx", seconds=0.05)
    assert made.speedup == 2.0
    assert made.left == (model.graph.node[-1].input[1],)
    assert made.file_bytes < made.source_bytes + 8192
    want = SessionConfig(1).open(tmp_path / "m.onnx").run(None, {"x": X})[0]
    for on_kernels in (False, True):
        close(SessionConfig(1).open(made.path, on_kernels=on_kernels).run(None, {"x": X})[0], want)


def test_an_older_opset_is_raised(tmp_path: Path) -> None:
    model = residual_net()
    model.opset_import[0].version = 13
    onnx.save(model, tmp_path / "m.onnx")
    made = compile_file(tmp_path / "m.onnx", measure=False)
    assert onnx.load(made.path).opset_import[0].version >= 18


def slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "choose", lambda contenders: Selection(None, 0.8, 1.1))


def test_nothing_is_written_that_is_no_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(residual_net(), tmp_path / "m.onnx")
    slower(monkeypatch)
    with pytest.raises(ModelFileError, match=r"ratio 0.80 to 1.10; --no-measure compiles"):
        compile_file(tmp_path / "m.onnx", seconds=0.05)
    assert [p.name for p in tmp_path.glob("*.onnx")] == ["m.onnx"]


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ("dense", ModelFileError, "only 0% of its weights are zeros"),
        ("itself", ConfigError, "is the source itself"),
        ("missing", ModelFileError, "does not exist"),
        ("garbage", ModelFileError, "no ONNX file"),
        ("twice", ModelFileError, "is compiled already"),
        ("suffix", ConfigError, "must end in .onnx"),
        ("threads", ConfigError, "at least 1"),
    ],
)
def test_refusals(how: str, error: type[Exception], match: str, tmp_path: Path) -> None:
    path, out, threads = tmp_path / "m.onnx", tmp_path / "fast.onnx", 1
    onnx.save(residual_net(), path)
    if how == "dense":
        b = Builder()
        onnx.save(b.model(b.conv("x", 8, 3, density=1.0)), path)
    elif how == "itself":
        out = path
    elif how == "missing":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"\x08\x07nonsense")
    elif how == "twice":
        path = compile_file(path, measure=False).path
    elif how == "suffix":
        out = tmp_path / "fast.bin"
    else:
        threads = 0
    with pytest.raises(error, match=match):
        compile_file(path, out, threads=threads, measure=False)
    assert out == path or not out.exists()


def a_compiled(tmp_path: Path) -> ModelProto:
    onnx.save(residual_net(), tmp_path / "m.onnx")
    return onnx.load(compile_file(tmp_path / "m.onnx", measure=False).path)


@pytest.mark.parametrize("how", ["twice", "unused", "nested", "foreign", "subgraph", "attribute"])
def test_hostile_regions_are_refused(how: str, tmp_path: Path) -> None:
    model = a_compiled(tmp_path)
    (region,) = [f for f in model.functions if f.name == "Region_0"]
    if how == "twice":
        again = model.graph.node.add()
        again.CopyFrom(next(n for n in model.graph.node if n.op_type == "Region_0"))
        again.output[0] = "again"
    elif how == "unused":
        model.functions.add().CopyFrom(region)
        model.functions[-1].name = "Region_1"
    elif how == "nested":
        region.node[0].CopyFrom(helper.make_node("Region_0", ["x"], ["y"], domain="ai.fggp"))
    elif how == "foreign":
        region.node[0].domain = "com.example"
    elif how == "subgraph":
        inner = helper.make_graph([], "g", [], [])
        region.node[0].attribute.append(helper.make_attribute("then_branch", inner))
    else:
        region.attribute.append("weight_shape")
    with pytest.raises(ModelFileError, match="Region_"):
        expand(model)
    with pytest.raises(ModelFileError):
        unpack(model)


def test_the_command(program, tmp_path: Path) -> None:
    (program.cwd / "tiny.onnx").write_bytes(golden.ONNX.read_bytes())
    made = program("compile", "tiny.onnx", "-o", "fast.onnx", "--no-measure", "--json")
    assert made.code == 0, made.err
    assert made.json["self_test"] is True
    assert made.json["layers"] == 2
    shown = program("inspect", "fast.onnx", "--json")
    assert shown.code == 0, shown.err
    assert {r["name"] for r in shown.json["layers"]} == {"conv", "fc"}
    checked = program(
        "verify", "fast.onnx", "--no-data", "--seconds", "0.2", "--out", "r", "--json"
    )
    assert checked.code == 0, checked.err
    assert "as the file was compiled" in checked.out
    timed = program(
        "bench", "fast.onnx", "--no-int8", "--seconds", "0.2", "--sessions", "6", "--json"
    )
    assert timed.code == 0, timed.err
    assert "as the file was compiled" in timed.out
    refused = program("compile", "fast.onnx")
    assert refused.code == 2
    assert refused.err.count("\n") <= 2
    assert "is compiled already" in refused.err
