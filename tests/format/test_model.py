"""Reading deployable files back: the golden ones, and everything that can be wrong with one."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import golden_files as golden
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from fggp_deploy.common.files import sha256_file
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.generated_inputs import fmix32, probe
from fggp_deploy.format.metadata import removed_before_compaction
from fggp_deploy.format.model import Metadata, SelfTest, SparseModel


def run(serialized: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(serialized, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


@pytest.fixture
def csr(tmp_path) -> Path:
    return Path(shutil.copytree(golden.CSR, tmp_path / "tiny.csr"))


@pytest.mark.parametrize("path", [golden.ONNX, golden.CSR], ids=["onnx", "csr"])
def test_golden_file_is_read_and_passes_its_selftest(path):
    model = SparseModel.open(path)
    weights = {t.name: numpy_helper.to_array(t) for t in model.dense().graph.initializer}
    assert np.array_equal(weights["conv.weight"], golden.conv_weight())
    assert np.array_equal(weights["fc.weight"], golden.fc_weight())
    test = model.metadata.selftest
    assert test is not None
    x = test.images()
    assert test.passes({"logits": run(model.runnable(), x)})
    assert test.passes({"logits": run(model.dense().SerializeToString(), x)})
    assert not test.passes({"logits": run(model.runnable(), x) + 1})


def test_golden_layers():
    conv, fc = SparseModel.open(golden.ONNX).layers
    assert (conv.name, conv.op, conv.nnz, conv.size) == ("conv", "Conv", 10, 400)
    assert conv.encoding == "gaps8"
    assert conv.stored_bytes == 50
    assert conv.sparsity == 1 - 10 / 400
    assert conv.macs == 16 * 4 * 4 * 25
    assert (fc.name, fc.op, fc.nnz, fc.macs) == ("fc", "Gemm", 80, 1600)


def test_golden_bytes():
    stored = {
        t.name: numpy_helper.to_array(t).tolist() for t in onnx.load(golden.ONNX).graph.initializer
    }
    assert stored["conv.weight.gaps"] == [37] * 10
    assert stored["conv.weight.values"] == [1.0] * 10


def test_golden_files_are_what_the_script_makes(tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "ONNX", tmp_path / "tiny.onnx")
    monkeypatch.setattr(golden, "CSR", tmp_path / "tiny.csr")
    golden.main()
    old = SparseModel.open(golden.FOLDER / "tiny.onnx")
    new = SparseModel.open(tmp_path / "tiny.onnx")
    assert old.dense() == new.dense()
    assert old.metadata.to_props() == new.metadata.to_props()


def test_probe_is_murmur3_over_seed_and_index():
    assert fmix32(np.array([0, 1], np.uint32)).tolist() == [0, 0x514E28B7]
    assert probe(0, (2,)).tolist() == [-1.0, 0x514E28 / 2**23 - 1]
    assert probe(1, (1,))[0] == probe(0, (2,))[1]
    assert probe(2**32 - 1, (2,))[1] == -1.0  # the counter wraps


def test_metadata_round_trips_exactly():
    m = golden.metadata()
    back = Metadata.from_props(m.to_props())
    assert back.to_props() == m.to_props()
    assert back.selftest is not None
    assert m.selftest is not None
    assert back.selftest.logits.tobytes() == m.selftest.logits.tobytes()


def test_unrounded_is_written_only_where_there_is_one():
    m = golden.metadata()
    assert "fggp.unrounded" not in m.to_props()
    both = replace(m, unrounded=m.selftest)
    assert both.to_props()["fggp.unrounded"] == m.to_props()["fggp.selftest"]
    assert Metadata.from_props(both.to_props()).to_props() == both.to_props()


def test_selftest_tolerates_roundings_of_the_largest_logit():
    small = SelfTest.of_classifier(lambda x: np.float32([[0.5, -0.1]]), (1, 1, 1), batch=1)
    large = SelfTest.of_classifier(lambda x: np.float32([[50, -0.1]]), (1, 1, 1), batch=1)
    assert (small.outputs[0].atol, large.outputs[0].atol) == (1e-4, pytest.approx(5e-3))
    assert large.passes({"logits": large.logits + np.float32(0.004)})
    assert not small.passes({"logits": small.logits + np.float32(0.004)})


def test_selftest_refuses_nan():
    with pytest.raises(ModelFileError):
        SelfTest.of_logits(0, np.full((1, 2), np.nan, np.float32), (1, 2, 3))


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 1000, 2000, -1])
def test_truncated(tmp_path, keep):
    path = tmp_path / "t.onnx"
    path.write_bytes(golden.ONNX.read_bytes()[:keep])
    with pytest.raises(ModelFileError):
        SparseModel.open(path)


def test_flipped_bytes_raise_nothing_else(tmp_path):
    whole, path = golden.ONNX.read_bytes(), tmp_path / "f.onnx"
    rng = np.random.default_rng(0)
    for at in rng.integers(len(whole), size=300):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with contextlib.suppress(ModelFileError):
            SparseModel.open(path).dense()


def test_missing_and_foreign(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        SparseModel.open(tmp_path / "none.onnx")
    path = tmp_path / "foreign.onnx"
    path.write_bytes(golden.dense().SerializeToString())
    foreign = SparseModel.open(path).metadata
    assert foreign.selftest is None
    with pytest.raises(ModelFileError, match="does not say how its images are prepared"):
        _ = foreign.images
    with pytest.raises(ModelFileError, match="manifest"):
        SparseModel.open(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", "2"),
        ("classes", '["one"]'),
        ("classes", "{"),
        ("preprocessing", '{"height":5,"width":4,"mean":[0],"std":[1]}'),
        ("preprocessing", "null"),
        ("selftest", '{"seed":-1,"logits":[[1]],"rtol":0,"atol":0}'),
        ("selftest", "[]"),
        ("sparsity", "3"),
    ],
)
def test_contradicting_metadata(tmp_path, key, value):
    model = onnx.load(golden.ONNX)
    props = {p.key: p.value for p in model.metadata_props} | {f"fggp.{key}": value}
    onnx.helper.set_model_props(model, props)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError):
        SparseModel.open(path)


def edit(folder: Path, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest, manifest["weights"]["conv.weight"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


MANIFESTS = {
    "escape": lambda m, w: w.update(file="weights/../../x.npz"),
    "absolute": lambda m, w: w.update(file="/etc/passwd"),
    "shape_negative": lambda m, w: w.update(shape=[-16, -1, 5, 5]),
    "shape_huge": lambda m, w: w.update(shape=[2**40, 2**40]),
    "shape_other": lambda m, w: w.update(shape=[1, 16, 5, 5]),
    "shape_text": lambda m, w: w.update(shape="16"),
    "nnz": lambda m, w: w.update(nnz=9),
    "nnz_bool": lambda m, w: w.update(nnz=True),
    "hash": lambda m, w: w.update(sha256="0" * 64),
    "no_graph": lambda m, w: m.pop("graph"),
    "version": lambda m, w: m.update(version=2),
    "weight_missing": lambda m, w: w.update(file="weights/none.npz"),
    "weight_unknown": lambda m, w: m["weights"].update({"other": w}),
    "weight_left_out": lambda m, w: m["weights"].pop("conv.weight"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_hostile_manifest(csr, case):
    edit(csr, MANIFESTS[case])
    with pytest.raises(ModelFileError):
        SparseModel.open(csr)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def huge_header() -> bytes:
    out = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**50,)}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()


NPZ = {
    "bomb": {"data.npy": b"\0" * 50_000_000},
    "pickle": {"data.npy": npy(np.array([{}], dtype=object))},
    "doubles": {"data.npy": npy(np.ones(10))},
    "column_past_end": {"indices.npy": npy(np.full(10, 25, np.int32))},
    "indptr_falls": {"indptr.npy": npy(np.arange(17, dtype=np.int32)[::-1])},
    "huge_header": {"data.npy": huge_header()},
    "no_array": {"data.npy": b"hello"},
    "coo": {"format.npy": npy(np.array(b"coo"))},
}


@pytest.mark.parametrize("case", [*NPZ, "not_a_zip"])
def test_hostile_npz(csr, case):
    path = csr / "weights/conv.weight.npz"
    with zipfile.ZipFile(path) as z:
        members = {n: z.read(n) for n in z.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in (members | NPZ.get(case, {})).items():
            z.writestr(name, content)
    if case == "not_a_zip":
        path.write_bytes(b"PK")
    edit(csr, lambda m, w: w.update(sha256=sha256_file(path)))
    with pytest.raises(ModelFileError):
        SparseModel.open(csr)


def test_symlink_out_of_the_folder(csr, tmp_path):
    path = csr / "weights/conv.weight.npz"
    path.rename(tmp_path / "outside.npz")
    path.symlink_to(tmp_path / "outside.npz")
    with pytest.raises(ModelFileError, match="outside"):
        SparseModel.open(csr)


@pytest.mark.parametrize(
    ("before", "share"),
    [
        ({"n_all_weights": 100, "n_all_removed": 98}, 0.98),
        ({"n_all_weights": 50, "n_all_removed": 10}, None),  # no channel left the file
        ({"n_all_weights": 0, "n_all_removed": 0}, None),
        ({"n_all_weights": 9, "n_all_removed": 10}, None),
        ({"n_all_weights": 9.5, "n_all_removed": True}, None),
        ({"n_all_removed": 10}, None),
        ([], None),
    ],
)
def test_what_was_removed_before_compaction(before, share):
    counts = {"n_all_weights": 50, "before_compaction": before}
    assert removed_before_compaction(counts) == share
    assert removed_before_compaction({}) is None
