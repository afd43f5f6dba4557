"""The program as a user has it: its own process, the embedded data, the newest run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import onnx
import pytest
import typer

from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.cli.main import app
from fggp_deploy.cli.options import numbers
from fggp_deploy.errors import ConfigError
from fggp_deploy.measure.latency import MIN_SESSIONS


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
    (folder,) = (demo_run.cwd / "runs").iterdir()
    (folder / "model.onnx").touch()  # the newest export, whatever other tests have exported
    ended = demo_run("verify", "--threads", "1", "--batch", "1", "--seconds", "1", "--json")
    assert ended.code == 0, ended.err
    report = ended.json
    assert report["passed"]
    assert report["accuracy"]["n"] == 2000
    assert report["parity"]["test images"]["bit_equal"]
    assert json.loads((folder / "report.json").read_text()) == report
    assert "PASS" in (folder / "report.md").read_text().upper()


def test_a_failed_gate_is_exit_code_1(demo_run):
    ended = demo_run(
        "verify",
        "--threads",
        "1",
        "--batch",
        "1",
        "--seconds",
        "0.5",
        "--no-data",
        "--max-bytes",
        "1000",
    )
    assert ended.code == 1
    assert "FAIL  max_bytes" in ended.out


@pytest.mark.parametrize(
    "args",
    [
        ["prune", "--help"],
        ["export", "none", "--format", "onx"],
        ["export", "none", "--values", "fp8"],
        ["export", "none", "--activations", "int4"],
        ["export", "none", "--format", "csr", "--flat"],
    ],
    ids=" ".join,
)
def test_help_and_mistakes_of_export_are_fast_and_import_nothing_heavy(args: list[str]):
    code = (
        "import sys, contextlib, io\n"
        f"sys.argv = ['fggp-deploy', *{args}]\n"
        "from fggp_deploy.cli.main import run\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): run()\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'scipy', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "read"),
    [("0.9", (0.9,)), ("0.9,0.95", (0.9, 0.95)), (["0.9", "0.95,0.98"], (0.9, 0.95, 0.98))],
)
def test_a_repeated_option_adds_to_the_list(given, read):
    assert numbers("--target", given) == read


@pytest.mark.parametrize(
    ("given", "meant"), [("0,9", "0.9"), ("0,9,0,95", "0.9,0.95"), (["0.9", "0,95"], "0.95")]
)
def test_a_decimal_comma_is_named(given, meant):
    with pytest.raises(ConfigError, match=f"with a decimal point: {meant}$"):
        numbers("--target", given)


def test_doctor_knows_this_machine(program):
    ended = program("doctor", "--json")
    assert ended.code == 0
    assert {c["what"]: c["ok"] for c in ended.json["checks"]}["onnxruntime"]


def test_every_out_has_the_same_short_name():
    commands = typer.main.get_command(app).commands
    of_out = {n: p.opts for n, c in commands.items() for p in c.params if p.name == "out"}
    assert {"prune", "export", "pack", "compile", "verify", "bench"} <= set(of_out)
    assert {n: opts for n, opts in of_out.items() if opts != ["--out", "-o"]} == {}


def test_the_help_of_bench_names_its_least_number_of_sessions(program):
    assert f"at least {MIN_SESSIONS};" in " ".join(program("bench", "--help").out.split())
    refused = program("bench", "none.onnx", "--sessions", MIN_SESSIONS - 1)
    assert refused.code == 2
    assert f"sessions must be at least {MIN_SESSIONS}" in refused.err


def test_version_and_exit_code_of_wrong_options(program):
    assert program("--version").out.startswith("fggp-deploy 0.")
    assert program("prune", "--no-such-option").code == 2


WAITING = """
import os, sys
from fggp_deploy.cli import main
assert "torch" not in sys.modules  # which reads the policy when it is imported
sys.argv = ["fggp-deploy", "--version"]
try:
    main.run()
finally:
    print(os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize(
    ("said", "policy"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "active"}, "active"),
        ({"GOMP_SPINCOUNT": "1000"}, "None"),
        ({"KMP_BLOCKTIME": "5"}, "None"),
    ],
)
def test_threads_that_wait_sleep_unless_the_user_says_how(said: dict[str, str], policy: str):
    kept = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", WAITING], env=kept | said, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == policy, done.stderr
