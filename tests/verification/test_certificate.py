"""The certificate, and a delivered file checked against its report."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from onnx import numpy_helper
from verified import damage, metadata, network

from fggp_deploy.common.files import sha256_file
from fggp_deploy.errors import FileError
from fggp_deploy.exporters import onnx as packed_onnx
from fggp_deploy.exporters import onnx_dense
from fggp_deploy.report.files import write_report
from fggp_deploy.report.sections.provenance import _in_blocks
from fggp_deploy.verification import certificate
from fggp_deploy.verification.recheck import recheck

pytestmark = pytest.mark.usefixtures("shapes_in_process")

NAMES = ["a.weight", "b.weight", "fc.weight"]


def zeros(sparsity: float) -> int:
    weights = [numpy_helper.to_array(t) for t in network(sparsity).graph.initializer[:3]]
    return sum(int((w == 0).sum()) for w in weights)


def claiming(n_removed: int):
    content = {"prunable": NAMES, "n_removed": n_removed, "target": 0.95}
    return metadata(network(0.95), sparsity=content)


def test_counts_are_those_of_the_file(folder, quick):
    path = packed_onnx.export(network(0.95), claiming(zeros(0.95)), folder / "a" / "model.onnx")
    found = quick(path)
    c = found.certificate
    assert (c.n_removed, c.n_removed_recorded, c.target) == (zeros(0.95), zeros(0.95), 0.95)
    assert c.n_prunable == 64 * 9 + 64 * 64 * 9 + 6 * 64
    assert found.passed
    lying = packed_onnx.export(
        network(0.95), claiming(zeros(0.95) + 1), folder / "b" / "model.onnx"
    )
    verdicts = {v.name: v for v in quick(lying).verdicts}
    assert verdicts["sparsity as claimed"].value == 1
    assert not verdicts["sparsity as claimed"].passed


def test_the_masks_are_those_of_the_parent_or_fewer(folder, quick):
    """The same seed: what is zero at 90% is zero at 95% in the hand-made network."""
    parent = onnx_dense.export(
        network(0.9), metadata(network(0.9)), folder / "p" / "reference.onnx"
    )
    own = {t.name: numpy_helper.to_array(t) for t in network(0.9).graph.initializer}
    rng = np.random.default_rng(3)
    sparser = network(0.9)
    for tensor in list(sparser.graph.initializer)[:3]:
        w = own[tensor.name] * (rng.random(own[tensor.name].shape) < 0.5)
        tensor.CopyFrom(numpy_helper.from_array(w.astype(np.float32), tensor.name))
    path = packed_onnx.export(sparser, metadata(sparser), folder / "p" / "model.onnx")
    found = quick(path, reference=parent)
    assert found.certificate.masks_are_a_subset
    assert found.passed
    back = packed_onnx.export(network(0.5), metadata(network(0.5)), folder / "q" / "model.onnx")
    found = quick(back, reference=parent)
    assert not found.certificate.masks_are_a_subset
    assert [v.name for v in found.verdicts if not v.passed] == ["masks within the dense model's"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"pattern": "1x4"}, ", rounded down to whole blocks of 1x4"),
        ({"pattern": None}, ""),
        ({"pattern": ["1x4"]}, ""),
        ({"pattern": "<b>"}, ""),
        ("1x4", ""),
    ],
)
def test_the_count_names_the_blocks_that_it_comes_in(config: object, says: str):
    provenance = {"export": {"config": {}}, "prune": {"config": config}}
    assert _in_blocks({"provenance": provenance}) == says
    assert _in_blocks({"provenance": {"prune": config}}) == ""


def test_revived_by_hand():
    parent = {"a": np.float32([[1, 0], [0, 2]]), "dead": np.float32([[0, 0], [1, 1]])}
    assert certificate.revived({"a": np.float32([[5, 0], [0, 0]])}, parent) == {}
    assert certificate.revived({"a": np.float32([[1, 1], [1, 1]])}, parent) == {"a": 2}
    # a channel of zeros only is a folded batch norm, no mask; another name or shape is passed over
    assert certificate.revived({"dead": np.float32([[1, 1], [1, 1]])}, parent) == {}
    assert certificate.revived({"b": np.float32([[1]]), "a": np.float32([1])}, parent) == {}


def test_hashes_tell_masks_from_values():
    w = {"a": np.float32([[1, 0], [0, 2]])}
    other = {"a": np.float32([[3, 0], [0, 4]])}
    moved = {"a": np.float32([[0, 1], [0, 2]])}
    assert certificate.masks_sha256(w) == certificate.masks_sha256(other)
    assert certificate.masks_sha256(w) != certificate.masks_sha256(moved)
    assert certificate.layer_hashes(w) != certificate.layer_hashes(other)
    renamed = {"b": w["a"]}
    assert certificate.masks_sha256(renamed) != certificate.masks_sha256(w)


def test_packing_does_not_change_a_certificate(folder, quick):
    dense = onnx_dense.export(network(0.95), metadata(network(0.95)), folder / "d" / "model.onnx")
    a, b, c = (quick(p).certificate for p in (folder / "model.onnx", folder / "model.csr", dense))
    assert a.masks_sha256 == b.masks_sha256 == c.masks_sha256
    assert a.layers == b.layers == c.layers


def verdicts(folder) -> dict[str, bool]:
    found = recheck(folder / "model.onnx", folder / "report.json")
    return {v.name: v.passed for v in found}


def test_a_delivered_file_is_the_one_of_its_report(folder, quick):
    write_report(quick(folder / "model.onnx"), folder)
    names = ["file", "layers", "masks", "preprocessing", "self-test here", "report"]
    assert verdicts(folder) == dict.fromkeys(names, True)


def test_a_changed_weight_is_named(folder, quick):
    write_report(quick(folder / "model.onnx"), folder)
    damage(folder / "model.onnx", "b.weight.values", lambda v: -v)
    found = {v.name: v for v in recheck(folder / "model.onnx", folder / "report.json")}
    assert {n for n, v in found.items() if not v.passed} == {"file", "layers", "self-test here"}
    assert found["layers"].how.endswith("the first that differs is b")


def test_changed_preprocessing_is_found(folder, quick):
    write_report(quick(folder / "model.onnx"), folder)
    meta = metadata(network(0.95))
    wrong = dataclasses.replace(meta.preprocessing, mean=(0.4,))
    meta = dataclasses.replace(meta, preprocessing=wrong)
    packed_onnx.export(network(0.95), meta, folder / "model.onnx")
    found = verdicts(folder)
    assert [n for n, passed in found.items() if not passed] == ["file", "preprocessing"]


def test_a_report_that_failed_fails(folder, quick):
    damage(folder / "model.onnx", "fc.weight.values", lambda v: -v)
    write_report(quick(folder / "model.onnx"), folder)
    found = verdicts(folder)
    assert found["file"]
    assert not found["report"]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: b"",
        lambda r: b"[]",
        lambda r: b"\xff",
        lambda r: b"[" * 100_000,
        lambda r: json.dumps(r | {"schema_version": 1}).encode(),
        lambda r: json.dumps(r | {"certificate": {}}).encode(),
        lambda r: json.dumps(r | {"certificate": None}).encode(),
        lambda r: json.dumps(r | {"verdicts": [1]}).encode(),
        lambda r: json.dumps(r | {"model": {"sha256": 5}}).encode(),
        lambda r: json.dumps(r | {"origin": {"preprocessing": {"mean": 1}}}).encode(),
    ],
)
def test_hostile_reports(folder, quick, change):
    write_report(quick(folder / "model.onnx"), folder)
    path = folder / "report.json"
    path.write_bytes(change(json.loads(path.read_text())))
    with pytest.raises(FileError) as e:
        recheck(folder / "model.onnx", path)
    assert "\n" not in str(e.value)
    with pytest.raises(FileError, match="cannot be read"):
        recheck(folder / "model.onnx", folder / "absent.json")


def test_the_checkpoint_beside_is_hashed(folder, quick):
    (folder / "pruned.safetensors").write_bytes(b"x")
    recorded = sha256_file(folder / "pruned.safetensors")
    meta = metadata(network(0.95), checkpoint_sha256=recorded)
    packed_onnx.export(network(0.95), meta, folder / "model.onnx")
    found = quick(folder / "model.onnx").certificate
    assert (found.checkpoint_found, found.checkpoint_recorded) == ("pruned.safetensors", recorded)
