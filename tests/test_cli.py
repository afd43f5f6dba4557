"""The program as a user has it: its own process, the embedded data, the newest run."""

from __future__ import annotations

import json
import subprocess
import sys

import onnx
import pytest
from conftest import tiny

from fggp_deploy.artifacts.checkpoint import Checkpoint
from fggp_deploy.files import sha256_file


def test_prune_removes_exactly_what_was_asked(demo_run):
    made = json.loads((demo_run.cwd / "pruned.json").read_text())
    assert made["n_removed"] == round(0.98 * made["n_prunable"])
    seen = demo_run("inspect", "--json").json
    assert (seen["n_removed"], seen["n_prunable"]) == (made["n_removed"], made["n_prunable"])
    zeros = sum(r["n_removed"] for r in seen["layers"] if r["prunable"])
    assert zeros == made["n_removed"]
    assert [r["name"] for r in seen["layers"] if not r["prunable"]] == ["conv1.weight"]
    assert sum(r["macs"] for r in seen["layers"]) > 1e6


def test_a_run_folder_is_complete(demo_run):
    (folder,) = (demo_run.cwd / "runs").iterdir()
    names = {p.name for p in folder.iterdir()}
    assert {"pruned.safetensors", "parent.safetensors", "config.yaml", "metrics.jsonl"} <= names
    assert {"model.onnx", "reference.onnx", "tensorboard"} <= names
    assert not [n for n in names if n.endswith((".tmp", ".old"))]
    c = Checkpoint.open(folder / "pruned.safetensors")
    assert c.info is not None
    assert c.info.provenance["config"]["seed"] == 0
    assert c.info.provenance["seconds"] > 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in lines] == [1]
    assert lines[-1]["sparsity"] == pytest.approx(0.98, abs=1e-6)


def test_export_is_small_and_names_layers(demo_run):
    made = json.loads((demo_run.cwd / "exported.json").read_text())
    assert made["file_bytes"] < 0.028 * made["reference_bytes"]
    seen = demo_run("inspect", made["path"], "--json").json
    assert seen["n_removed"] == round(0.98 * seen["n_prunable"])
    assert [r["name"] for r in seen["layers"] if not r["prunable"]] == ["conv1"]
    model = onnx.load(demo_run.cwd / made["path"])
    shipped = "".join(p.value for p in model.metadata_props)
    assert str(demo_run.cwd) not in shipped
    assert '"command"' not in shipped
    onnx.checker.check_model(model, full_check=True)
    assert "layer4.0.conv2.weight.values" in {t.name for t in model.graph.initializer}
    assert {f.domain for f in model.functions} == {"ai.fggp"}


def test_verify_passes_with_no_argument_and_writes_reports(demo_run):
    ended = demo_run("verify", "--seconds", "1", "--json")
    assert ended.code == 0, ended.err
    report = ended.json
    assert report["passed"]
    assert report["accuracy"]["n"] == 2000
    assert report["parity"]["test images"]["bit_equal"]
    (folder,) = (demo_run.cwd / "runs").iterdir()
    assert json.loads((folder / "report.json").read_text()) == report
    assert "PASS" in (folder / "report.md").read_text().upper()


def test_a_failed_gate_is_exit_code_1(demo_run):
    ended = demo_run("verify", "--seconds", "0.5", "--no-data", "--max-bytes", "1000")
    assert ended.code == 1
    assert "FAIL  max_bytes" in ended.out


@pytest.mark.parametrize("format", ["csr", "onnx-dense", "onnx-sparse"])
def test_other_formats_export_and_verify(demo_run, format: str):
    made = demo_run("export", "--format", format, "--json")
    assert made.code == 0, made.err
    checked = demo_run("verify", made.json["path"], "--seconds", "0.5", "--json", "--out", "r")
    assert checked.code == 0, checked.err
    assert checked.json["parity"]["test images"]["bit_equal"]


def test_fp16_values_say_what_they_change(demo_run):
    made = demo_run("export", "--values", "fp16", "--json")
    assert made.code == 0, made.err
    path = demo_run.cwd / made.json["path"]
    assert path.name == "model.fp16.onnx"  # the fp32 file stays
    assert made.json["sha256"] == sha256_file(path)
    assert path.stat().st_size < 0.75 * path.with_name("model.onnx").stat().st_size
    assert 0 < made.json["rounding_error"] < 0.01 * made.json["largest_logit"]

    checked = demo_run("verify", path, "--seconds", "0.5", "--json")
    assert checked.code == 0, checked.err
    assert checked.json["rounding"]["max_abs"] == pytest.approx(
        made.json["rounding_error"], rel=0.5
    )
    pair = checked.json["rounding_paired"]
    assert pair["n"] == 2000
    assert pair["agreement"]["value"] > 0.99
    assert "fp16 values against fp32" in [v["name"] for v in checked.json["verdicts"]]
    text = (path.parent / "report.md").read_text()
    assert "What fp16 values change" in text

    again = demo_run("export", "--values", "fp16")  # its report is of another file now
    assert again.code == 0, again.err
    aside = f"report-{made.json['sha256'][:8]}.md"
    assert f"the report of the file that was here before is {aside} now" in again.out
    assert "fp16 values change the self-test's logits by at most" in again.out
    assert (path.parent / aside).read_text() == text
    assert not (path.parent / "report.md").exists()
    assert not (path.parent / "report.json").exists()


def test_a_flat_file_has_no_functions(demo_run):
    made = demo_run("export", "--flat", "--json")
    assert made.code == 0, made.err
    assert made.json["path"].endswith("model.flat.onnx")  # the packed file stays
    model = onnx.load(demo_run.cwd / made.json["path"])
    assert not model.functions
    assert {n.domain for n in model.graph.node} == {""}


def test_a_sparse_checkpoint_goes_on_from_its_zeros(program, cifar, half_sparse):
    args = ["prune", "--checkpoint", half_sparse, *tiny(cifar)]
    below = program(*args, "--target", 0.4, "--out", "x")
    assert below.code == 2
    assert "already 50.00% sparse but --target is 0.4" in below.err
    ended = program(*args, "--target", 0.9, "--out", "further", "--json")
    assert ended.code == 0, ended.err
    old = Checkpoint.open(half_sparse)
    new = Checkpoint.open(program.cwd / "further" / "pruned.safetensors")
    assert ended.json["n_removed"] == round(0.9 * ended.json["n_prunable"])
    assert len(old.masks) > 10
    assert all(not new.tensors[n][~m].any() for n, m in old.masks.items())


def test_the_same_seed_gives_the_same_bits(program, cifar, half_sparse):
    args = ["prune", "--checkpoint", half_sparse, *tiny(cifar), "--target", 0.9, "--json"]
    a, b, other = (program(*args, "--out", f"r{i}", "--seed", i // 2).json for i in range(3))
    assert a["digest"] == b["digest"] != other["digest"]


def test_a_run_without_a_parent_exports_without_a_reference(program, half_sparse):
    exported = program("export", half_sparse, "--out", "half.onnx", "--json")
    assert exported.code == 0, exported.err
    assert exported.json["reference"] is None
    checked = program("verify", "half.onnx", "--no-data", "--seconds", "0.2")
    assert checked.code == 0, checked.err
    assert "No dense parent" in checked.out


def test_help_is_fast_and_imports_nothing_heavy(program):
    code = (
        "import sys, contextlib, io\n"
        "sys.argv = ['fggp-deploy', 'prune', '--help']\n"
        "from fggp_deploy.cli.main import run\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): run()\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'scipy', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_doctor_knows_this_machine(program):
    ended = program("doctor", "--json")
    assert ended.code == 0
    assert {c["what"]: c["ok"] for c in ended.json["checks"]}["onnxruntime"]


def test_version_and_exit_code_of_wrong_options(program):
    assert program("--version").out.startswith("fggp-deploy 0.")
    assert program("prune", "--no-such-option").code == 2


def test_a_delivered_file_is_checked_and_compared_and_explained(demo_run):
    (folder,) = (demo_run.cwd / "runs").iterdir()
    (demo_run.cwd / "policy.yaml").write_text("version: 1\nmax_bytes: 1000\n")
    failed = demo_run(
        "verify", "--seconds", "0.2", "--no-data", "--policy", "policy.yaml", "--out", "v"
    )
    assert failed.code == 1
    assert "FAIL  max_bytes" in failed.out
    loose = demo_run(
        "verify", "--seconds", "0.2", "--no-data", "--policy", "policy.yaml", "--out", "v",
        "--max-bytes", 10**9,
    )  # fmt: skip
    assert loose.code == 0, loose.err
    model = folder / "model.onnx"
    checked = demo_run("verify", model, "--check", "v/report.json", "--json")
    assert checked.code == 0, checked.err
    assert checked.json["passed"]
    compared = demo_run("compare", "v/report.json", "v/report.json", "--json")
    assert compared.code == 0, compared.err
    assert len(compared.json["candidates"]) == 3
    assert (demo_run.cwd / "compare.html").is_file()
    explained = demo_run("explain", model, "--seconds", "0", "--json", "--out", "why.html")
    assert explained.code == 0, explained.err
    assert explained.json["sparsity"] > 0.9
    sensitive = demo_run(
        "sensitivity", "--images", "50", "--sparsities", "0.9", "--json", "--out", "s.html"
    )
    assert sensitive.code == 0, sensitive.err
    assert sensitive.json["n"] == 50
    assert (demo_run.cwd / "s.html").is_file()


@pytest.mark.parametrize(
    "args",
    [
        ("compare", "nothing"),
        ("compare", "nothing", "neither"),
        ("explain", "nothing.onnx"),
        ("sensitivity", "nothing.onnx"),
        ("verify", "nothing.onnx", "--check", "nothing.json"),
        ("verify", "nothing.onnx", "--policy", "nothing.yaml"),
    ],
)
def test_mistakes_with_reports_are_one_line(program, args):
    ended = program(*args)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1


def test_a_plan_writes_nothing(program, cifar, half_sparse):
    args = ["prune", "--checkpoint", half_sparse, *tiny(cifar), "--target", "0.9,0.95"]
    planned = program(*args, "--recipe", "fast", "--set", "updates=3", "--dry-run", "--json")
    assert planned.code == 0, planned.err
    made = planned.json
    assert [round(u["sparsity"], 2) for u in made["updates"]][-1] == 0.95
    assert len(made["updates"]) == 6
    assert made["config"]["recipe"] == "fast"
    assert made["config"]["epochs"] == 1  # an option goes over the recipe
    assert list(program.cwd.iterdir()) == []


def test_several_targets_are_exported_one_by_one(program, cifar, half_sparse):
    args = ["prune", "--checkpoint", half_sparse, *tiny(cifar), "--target", "0.8,0.9"]
    made = program(*args, "--out", "run", "--json")
    assert made.code == 0, made.err
    n = made.json["n_prunable"]
    assert [r["n_removed"] for r in made.json["results"]] == [round(0.8 * n), round(0.9 * n)]
    exported = program("export", "run/pruned-0.80.safetensors", "--json")
    assert exported.code == 0, exported.err
    assert exported.json["path"] == "run/model-0.80.onnx"
    again = program(*args, "--out", "run", "--json")  # the same command
    assert again.json == made.json
    assert "holds a finished run" in again.err
