"""Formats, reports and re-checks through the program itself."""

from __future__ import annotations

import onnx
import pytest
from conftest import QUICK

from fggp_deploy.common.files import sha256_file
from fggp_deploy.format.model import SparseModel


@pytest.mark.parametrize("format", ["csr", "onnx-dense", "onnx-sparse"])
def test_other_formats_export_and_verify(demo_run, format: str):
    made = demo_run("export", "--format", format, "--json")
    assert made.code == 0, made.err
    checked = demo_run(
        "verify",
        made.json["path"],
        *QUICK,
        "--json",
        "--out",
        "r",
    )
    assert checked.code == 0, checked.err
    assert checked.json["parity"]["test images"]["bit_equal"]


@pytest.mark.parametrize(
    ("values", "share"), [("fp16", 0.75), pytest.param("int8", 0.6, marks=pytest.mark.slow)]
)
def test_rounded_values_say_what_they_change(demo_run, values, share):
    made = demo_run("export", "--values", values, "--json")
    assert made.code == 0, made.err
    path = demo_run.cwd / made.json["path"]
    assert path.name == f"model.{values}.onnx"  # the fp32 file stays
    assert made.json["sha256"] == sha256_file(path)
    assert path.stat().st_size < share * path.with_name("model.onnx").stat().st_size
    assert 0 < made.json["rounding_error"] < 0.03 * made.json["largest_logit"]

    checked = demo_run("verify", path, *QUICK, "--json")
    assert checked.code == 0, checked.err
    assert checked.json["rounding"]["max_abs"] == pytest.approx(
        made.json["rounding_error"], rel=0.5
    )
    pair = checked.json["rounding_paired"]
    assert pair["n"] == 2000
    assert pair["agreement"]["value"] > 0.99
    assert "rounded values against fp32" in [v["name"] for v in checked.json["verdicts"]]
    stem = f"{path.name}.report"  # report.md is for model.onnx
    text = (path.parent / f"{stem}.md").read_text()
    assert "Rounding the values loses" in text

    again = demo_run("export", "--values", values)  # its report is of another file now
    assert again.code == 0, again.err
    aside = f"{stem}-{made.json['sha256'][:8]}.md"
    assert f"the report of the file that was here before is now {aside}" in again.out
    assert again.out.count(f"{values} values change the outputs by up to") == 1
    assert "logits by" not in again.out  # one line about rounding is enough
    assert (path.parent / aside).read_text() == text
    assert not (path.parent / f"{stem}.md").exists()
    assert not (path.parent / f"{stem}.json").exists()


def test_a_flat_file_has_no_functions(demo_run):
    made = demo_run("export", "--flat", "--json")
    assert made.code == 0, made.err
    assert made.json["path"].endswith("model.flat.onnx")  # the packed file stays
    model = onnx.load(demo_run.cwd / made.json["path"])
    assert not model.functions
    assert {n.domain for n in model.graph.node} == {""}


def test_a_delivered_file_is_checked_and_compared_and_explained(demo_run):
    (folder,) = (demo_run.cwd / "runs").iterdir()
    model = folder / "model.onnx"
    (demo_run.cwd / "policy.yaml").write_text("version: 1\nmax_bytes: 1000\n")
    failed = demo_run(
        "verify",
        model,
        *QUICK,
        "--no-data",
        "--policy",
        "policy.yaml",
        "--out",
        "v",
    )
    assert failed.code == 1
    assert "FAIL  max_bytes" in failed.out
    loose = demo_run(
        "verify", model, *QUICK,
        "--no-data", "--policy", "policy.yaml", "--out", "v", "--max-bytes", 10**9,
    )  # fmt: skip
    assert loose.code == 0, loose.err
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


def test_export_leaves_another_networks_reference_alone(demo_run):
    other = demo_run.cwd / "other" / "reference.onnx"
    other.parent.mkdir()
    other.write_bytes(b"another network's")
    made = demo_run("export", "--out", other.with_name("mine.onnx"))
    assert made.code == 2
    assert "other/reference.onnx is not the dense model of this network and would be" in made.err
    assert [p.name for p in other.parent.iterdir()] == ["reference.onnx"]
    assert other.read_bytes() == b"another network's"


def test_compaction_is_told_and_verifies(demo_run):
    made = demo_run("export", "--compact", "--json")
    assert made.code == 0, made.err
    path = demo_run.cwd / made.json["path"]
    assert path.name == "model.compact.onnx"
    reported = made.json["compaction"]
    assert reported["error"] <= 1e-5
    assert reported["n_removed"] == sum(a - b for a, b in reported["channels"].values()) > 0
    assert reported["macs"][1] < reported["macs"][0]
    checked = demo_run(
        "verify", path, *QUICK, "--json",
        "--out", "rc",
    )  # fmt: skip
    assert checked.code == 0, checked.err
    assert "sparsity as claimed" in [v["name"] for v in checked.json["verdicts"]]
    now = SparseModel.open(path).metadata.sparsity
    meta = now["before_compaction"]
    share = meta["n_all_removed"] / meta["n_all_weights"]
    left = now["n_all_removed"] / now["n_all_weights"]
    assert checked.json["sparsity"] == pytest.approx(left, abs=1e-9)
    assert left < share
    head = f"{share:.2%} of all convolution and linear weights removed, then compacted"
    assert head in (demo_run.cwd / "rc" / "report.md").read_text()
    shown = demo_run("inspect", path)
    assert f"{share:.2%} removed, then compacted" in " ".join(shown.out.split())
    refused = demo_run("export", "--compact", "--format", "state-dict")
    assert refused.code == 2
    assert "--compact is for ONNX formats" in refused.err
