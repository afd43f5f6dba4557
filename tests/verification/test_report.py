"""The whole verification on a small model made by hand, and what damage and misuse do to it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from verified import (
    N_TEST,
    PREPROCESSING,
    QUICK,
    SIDE,
    damage,
    dataset,
    markdown,
    metadata,
    network,
)

from fggp_deploy.common import timing
from fggp_deploy.common.files import sha256_file
from fggp_deploy.errors import ConfigError, DataError, FggpError, MachineError, ModelFileError
from fggp_deploy.exporters import onnx as packed_onnx
from fggp_deploy.exporters import onnx_dense
from fggp_deploy.format.choice import entropy_bound_bytes
from fggp_deploy.format.model import SparseModel
from fggp_deploy.measure import process
from fggp_deploy.measure.network import load
from fggp_deploy.report.files import write_report
from fggp_deploy.verification.gates import Gates
from fggp_deploy.verification.recheck import recheck
from fggp_deploy.verification.report import File, Report
from fggp_deploy.verification.report_files import find_report
from fggp_deploy.verification.schema import SCHEMA_VERSION
from fggp_deploy.verification.verify import verify

pytestmark = pytest.mark.usefixtures("shapes_in_process")


def test_a_report_without_accuracy_takes_no_other_ones_place(folder, quick):
    measured = quick(folder / "model.onnx", data=dataset())
    assert write_report(measured, folder) == folder / "report.html"
    kept = (folder / "report.json").read_bytes()
    bare = quick(folder / "model.onnx")
    assert write_report(bare, folder) == folder / "report-no-data.html"
    assert (folder / "report.json").read_bytes() == kept
    assert write_report(measured, folder) == folder / "report.html"
    assert write_report(bare, folder / "..") == folder / ".." / "report.html"


def told_of(found: Report, path: Path) -> Report:
    """The same report on another file."""
    return dataclasses.replace(found, model=File(path.name, sha256_file(path), 9))


def test_each_file_of_a_folder_has_a_report_of_its_own(folder, quick):
    found = quick(folder / "model.onnx")
    onnx_dense.export(network(0.95), metadata(network(0.95)), folder / "other.onnx")
    stems = {"model.onnx": "report", "other.onnx": "other.onnx.report"}
    stems["model.csr"] = "model.csr.report"
    for name in ("model.csr", *stems, "other.onnx"):  # the last takes its own one's place
        assert write_report(told_of(found, folder / name), folder) == folder / f"{stems[name]}.html"
    for name, stem in stems.items():
        assert json.loads((folder / f"{stem}.json").read_text())["model"]["name"] == name
        assert f"PASSED: {name}" in (folder / f"{stem}.md").read_text()
        assert find_report(folder, name) == folder / f"{stem}.json"
        assert all(v.passed for v in recheck(folder / name, folder))
    assert find_report(folder, "renamed.onnx") == folder / "report.json"


def test_the_report_of_a_file_that_changed_is_set_aside(folder, quick):
    found = quick(folder / "model.onnx")
    for sha256 in ("0123456789", "abcdefabcd"):
        changed = dataclasses.replace(found, model=File("model.onnx", sha256, 9))
        assert write_report(changed, folder) == folder / "report.html"
    names = sorted(p.name for p in folder.glob("report*"))
    assert names == [f"report{n}.{s}" for n in ("-01234567", "") for s in ("html", "json", "md")]
    assert json.loads((folder / "report.json").read_text())["model"]["sha256"] == "abcdefabcd"


def test_a_report_that_cannot_be_written_leaves_the_old_one_whole(folder, quick):
    found = quick(folder / "model.onnx")
    write_report(found, folder)
    old = {p: p.read_bytes() for p in folder.glob("report.*")}
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()  # cannot be replaced by a file
    changed = dataclasses.replace(found, notes=("new",))
    with pytest.raises(MachineError, match=r"cannot write .*report\.html"):
        write_report(changed, folder)
    for suffix in ("json", "md"):
        assert (folder / f"report.{suffix}").read_bytes() == old[folder / f"report.{suffix}"]
    assert not list(folder.glob(".report*"))


def test_a_report_json_of_another_program_stays(folder, quick):
    (folder / "report.json").write_text('{"tests": 3}')
    assert write_report(quick(folder / "model.onnx"), folder) == folder / "model.onnx.report.html"
    assert (folder / "report.json").read_text() == '{"tests": 3}'


@pytest.mark.parametrize("name", ["model.onnx", "model.csr"])
def test_everything_is_measured(folder, monkeypatch, name):
    monkeypatch.setenv("FGGP_KERNELS", "none")
    stages = []
    found = verify(
        folder / name,
        data=dataset(),
        gates=Gates(max_bytes=10**6),
        options=QUICK,
        progress=lambda stage, done, total: stages.append((stage, done, total)),
    )
    assert found.passed
    checks = ["self-test", "parity on probe inputs", "parity on test images"]
    checks += ["masks within the dense model's", "preprocessing", "max_bytes"]
    assert [v.name for v in found.verdicts] == checks
    assert all(d.bit_equal and d.top1_changed == 0 for d in found.parity.values())
    assert found.parity["test images"].n == 256
    assert found.accuracy.n == found.accuracy.paired.n == N_TEST
    assert found.accuracy.model.top5 is not None
    assert set(found.latency.timings) == set(found.processes) == {"model", "reference"}
    assert set(found.latency.speedups) == {"model"}
    assert found.processes["model"].n == 3
    assert found.processes["model"].load_ms > 0
    assert found.processes["model"].peak_rss_bytes > found.processes["model"].base_rss_bytes > 0
    assert found.model.file_bytes < found.size.dense_bytes
    assert found.reference.sha256 == sha256_file(folder / "reference.onnx")
    kernels_note, int8_note = found.notes
    assert kernels_note.startswith("The sparse kernels were not used")
    assert int8_note.startswith("Dense int8 was not measured: no training images")
    assert {stage for stage, _, _ in stages} >= {"parity", "accuracy", "latency, 1 thread, batch 1"}
    assert all(0 <= done <= total for _, done, total in stages)


def test_report_round_trip(folder, quick):
    found = quick(folder / "model.onnx", data=dataset())
    write_report(found, folder / "out")
    read = json.loads((folder / "out" / "report.json").read_text())
    assert read == found.to_dict()
    assert (read["schema_version"], read["passed"]) == (SCHEMA_VERSION, True)
    assert read["origin"]["model"] == "hand"
    assert (folder / "out" / "report.md").read_text() == markdown(found)
    names = sorted(p.name for p in (folder / "out").iterdir())
    assert names == ["report.html", "report.json", "report.md"]


def test_markdown_says_the_verdict_first(folder, quick):
    passed = markdown(quick(folder / "model.onnx", data=dataset()))
    assert passed.startswith("# PASSED: model.onnx\n")
    titles = [line[3:] for line in passed.splitlines() if line.startswith("## ")]
    assert titles[:5] == ["Verdict", "Accuracy", "Speed", "Size", "Robustness"]
    assert titles[5:] == ["Parity", "Structure", "Provenance"]
    assert "n = 300" in passed
    failed = markdown(quick(folder / "model.onnx", gates=Gates(max_bytes=1)))
    assert failed.startswith("# FAILED: model.onnx (max_bytes)\n")


def test_accuracy_is_that_of_a_plain_loop(folder, quick):
    data = dataset()
    found = quick(folder / "model.onnx", data=data).accuracy
    net = load("dense", network(0.95).SerializeToString(), threads=1)
    right = [
        net.logits(PREPROCESSING(data.test.images[i : i + 1])).argmax() == data.test.labels[i]
        for i in range(N_TEST)
    ]
    assert found.model.top1.k == sum(right)


def test_size_by_hand(folder, quick):
    found = quick(folder / "model.onnx").size
    dense = SparseModel.open(folder / "model.onnx").dense()
    arrays = [numpy_helper.to_array(t) for t in network(0.95).graph.initializer]
    weights = [w for w in arrays if w.ndim > 1]
    bound = dense.ByteSize() - sum(w.nbytes for w in weights)
    bound += sum(round(entropy_bound_bytes(w)) for w in weights)
    assert found.file_bytes == (folder / "model.onnx").stat().st_size
    assert found.reference_bytes == (folder / "reference.onnx").stat().st_size
    assert found.bound_bytes == bound < found.file_bytes < found.dense_bytes
    assert sum(c.tensors for c in found.encodings.values()) == 3


def test_a_flipped_sign_fails_the_self_test(folder, quick):
    damage(folder / "model.onnx", "fc.weight.values", lambda v: np.append(-v[:1], v[1:]))
    found = quick(folder / "model.onnx", data=dataset())
    assert not found.passed
    assert [v.name for v in found.verdicts if not v.passed] == ["self-test"]
    assert markdown(found).startswith("# FAILED: model.onnx (self-test)")


def test_packed_that_differs_from_dense_fails(folder, quick, monkeypatch):
    monkeypatch.setattr(SparseModel, "dense", lambda self: network(0.9))
    found = quick(folder / "model.onnx", data=dataset())
    assert not found.passed
    failed = [v.name for v in found.verdicts if not v.passed]
    assert failed == ["parity on probe inputs", "parity on test images"]


def test_without_reference_data_and_self_test(folder, quick):
    alone = folder / "alone" / "model.onnx"
    meta = dataclasses.replace(metadata(network(0.95)), selftest=None)
    packed_onnx.export(network(0.95), meta, alone)
    found = quick(alone)
    assert found.passed
    assert found.accuracy is found.reference is found.self_test is None
    assert found.latency.speedups == {}
    assert len(found.notes) == 5  # the others: no kernels, no int8
    text = markdown(found)
    for missing in (
        "No dense model",
        "no accuracy drop",
        "No data was given",
        "no self-test",
        "kernels",
    ):
        assert missing in text


def test_a_dense_file_against_itself_has_no_drop(folder, quick):
    path = onnx_dense.export(network(0.0), metadata(network(0.0)), folder / "a" / "model.onnx")
    found = quick(path, reference=path, data=dataset()).accuracy.paired
    assert (found.lost, found.gained, found.p_value, found.drop_points) == (0, 0, 1, 0)
    assert found.agreement.value == 1


def test_hostile_metadata_is_written_harmlessly(folder, quick):
    meta = metadata(network(0.95), sparsity={"x": float("nan")})
    meta = dataclasses.replace(meta, model="a|<b>")
    path = packed_onnx.export(network(0.95), meta, folder / "own" / "model.onnx")
    found = quick(path)
    write_report(found, folder / "out")
    assert found.to_dict()["origin"]["sparsity"] == {"x": "NaN"}
    assert "a\\|&lt;b>" in (folder / "out" / "report.md").read_text()


def nan_bias(folder: Path) -> Path:
    damage(folder / "model.onnx", "fc.bias", lambda v: v * np.nan)
    return folder / "model.onnx"


def truncated(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    return path


def no_metadata(folder: Path) -> Path:
    return folder / "reference.onnx"


def missing(folder: Path) -> Path:
    return folder / "absent.onnx"


def gap_past_the_end(folder: Path) -> Path:
    damage(folder / "model.onnx", "b.weight.gaps", lambda v: v * 0 + 255)
    return folder / "model.onnx"


def other_reference(folder: Path) -> Path:
    (folder / "reference.onnx").write_bytes(network(0.5).SerializeToString())
    return folder / "model.onnx"


def unreadable_operator(folder: Path) -> Path:
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].op_type = "Nonsense"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize(
    "make",
    [
        nan_bias,
        truncated,
        no_metadata,
        missing,
        gap_past_the_end,
        other_reference,
        unreadable_operator,
    ],
)
def test_damaged_models(folder, quick, make):
    path = make(folder)
    with pytest.raises(ModelFileError) as e:
        quick(path)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 500


@pytest.mark.parametrize("content", [b"", b"garbage", None, "classes", "size", "nan"])
def test_hostile_references(folder, quick, content):
    meta = metadata(network(0.95))
    path = packed_onnx.export(network(0.95), meta, folder / "own" / "model.onnx")
    reference = folder / "own" / "given.onnx"
    if content == "classes":
        reference.write_bytes(network(0.0, classes=7).SerializeToString())
    elif content == "size":
        reference.write_bytes(network(0.0, side=9).SerializeToString())
    elif content == "nan":
        reference.write_bytes(network(0.0).SerializeToString())
        damage(reference, "fc.bias", lambda v: v * np.nan)
    elif content is not None:
        reference.write_bytes(content)
    with pytest.raises(ModelFileError) as e:
        quick(path, reference=reference)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (dataset(side=9), "wants"),
        (dataset(classes=7), "7 classes"),
        (dataset(n=0), "no images"),
    ],
)
def test_data_that_does_not_fit(folder, quick, data, match):
    with pytest.raises(DataError, match=match):
        quick(folder / "model.onnx", data=data)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": (0,)},
        {"threads": ()},
        {"batches": (1, 0)},
        {"seconds": 0.0},
        {"seconds": float("nan")},
        {"seed": -1},
        {"gates": Gates(max_drop_points=1)},
    ],
)
def test_options_out_of_domain(folder, quick, options):
    with pytest.raises(ConfigError):
        quick(folder / "model.onnx", **options)


def always_held_up(monkeypatch) -> None:
    """Threads wait for a core in every timed run, for an hour."""
    reads = itertools.count()
    monkeypatch.setattr(timing, "waited_seconds", lambda: 3600.0 * next(reads))


def test_a_busy_machine_fails_the_gates_on_speed(folder, quick, monkeypatch):
    always_held_up(monkeypatch)
    gates = Gates(max_latency_ms=1e9, min_speedup=1e-9, max_bytes=10**6)
    found = quick(folder / "model.onnx", gates=gates)
    failed = {v.name: v.how for v in found.verdicts if not v.passed}
    assert set(failed) == {"max_latency_ms", "min_speedup"}
    assert all("too busy to measure" in how for how in failed.values())
    assert sum("too busy to measure" in note for note in found.notes) == 1
    assert "too busy to measure" in markdown(found)
    assert quick(folder / "model.onnx").passed  # without such a gate it is a note


def test_every_setting_is_measured_and_gates_judge_the_first(folder, quick):
    gates = Gates(max_latency_ms=1e9)
    found = quick(folder / "model.onnx", threads=(2, 1, 2), batches=(3, 1), gates=gates)
    settings = [(found.latency.threads, found.latency.batch)]
    settings += [(lat.threads, lat.batch) for lat in found.other_latencies]
    assert settings == [(2, 3), (2, 1), (1, 3), (1, 1)]
    assert found.provenance.config["settings"] == [list(s) for s in settings]
    assert {t.sessions for t in found.latency.timings.values()} == {10}
    for lat in found.other_latencies:
        assert set(lat.timings) == {"model", "reference"}
        assert {t.sessions for t in lat.timings.values()} == {6}
        assert lat.plan.startswith("plain: the sparse kernels are not built")
    (gate,) = [v for v in found.verdicts if v.name == "max_latency_ms"]
    assert gate.value == found.latency.timings["model"].median_ms
    text = markdown(found)
    for said in ("2 threads, batch 3: this file", "1 thread, batch 1: dense model"):
        assert said in text


def test_a_speed_gate_needs_the_reference(folder):
    (folder / "reference.onnx").unlink()
    with pytest.raises(ConfigError, match="--reference"):
        verify(folder / "model.onnx", gates=Gates(min_speedup=1))


def test_a_child_process_fails_in_one_line(folder):
    (folder / "bad.onnx").write_bytes(b"garbage")
    with pytest.raises(ModelFileError, match="fresh process") as e:
        process.measure_processes(
            {"bad": folder / "bad.onnx"}, input_shape=(1, 1, SIDE, SIDE), threads=1
        )
    assert "\n" not in str(e.value)


def test_a_report_that_cannot_be_written_leaves_nothing(folder, quick):
    found = quick(folder / "model.onnx")
    (folder / "file").write_text("in the way")
    with pytest.raises(FggpError):
        write_report(found, folder / "file")
    assert (folder / "file").read_text() == "in the way"


def test_verify_needs_no_torch(folder):
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'typer'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from pathlib import Path\n"
        "from fggp_deploy.report.files import write_report\n"
        "from fggp_deploy.verification.options import VerifyOptions\n"
        "from fggp_deploy.verification.verify import verify\n"
        "options = VerifyOptions(threads=[1], batches=[1], seconds=0.001)\n"
        "found = verify(Path(sys.argv[1]), options=options)\n"
        "write_report(found, Path(sys.argv[2]))\n"
        "assert found.passed and 'torch' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(folder / "model.onnx"), str(folder / "out")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
