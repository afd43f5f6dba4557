from __future__ import annotations

import dataclasses
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fggp_deploy import data, runtime
from fggp_deploy.data import mnist
from fggp_deploy.format.model import SparseModel

EXAMPLES = Path(__file__).parents[2] / "examples"
FULL = data.load()
SMALL = dataclasses.replace(
    FULL, **{p: getattr(FULL, p).sample(1024) for p in ("train", "val", "test")}
)
API = Path(__file__).parents[2] / "docs" / "api.md"


def test_plain_loop(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["plain_loop.py", str(tmp_path / "own.onnx")])
    runpy.run_path(str(EXAMPLES / "plain_loop.py"), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"removed {round(0.9 * (16 * 64 * 9 + 2560))} of {16 * 64 * 9 + 2560}")
    assert SparseModel.open(tmp_path / "own.onnx").metadata.selftest is not None


def test_the_examples_of_the_api_page_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "TUNING_SECONDS", 0.5)
    monkeypatch.setattr(mnist, "load_embedded", lambda _: SMALL)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", API.read_text(), flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, str(API), "exec"), names)
    assert len(blocks) == 10
    assert "def drop(" in "".join(blocks)  # a criterion of the user's own
    assert names["masks"].n_removed == round(0.9 * (8 * 32 * 9 + 1280))
    assert (tmp_path / "own.onnx").is_file()
    assert (tmp_path / "run" / "report.json").is_file()


def test_the_loop_of_the_methods_page(monkeypatch):
    monkeypatch.setattr(mnist, "load_embedded", lambda _: SMALL)
    names: dict[str, Any] = {}
    blocks = re.findall(
        r"```python\n(.*?)```", (API.parent / "methods.md").read_text(), flags=re.DOTALL
    )
    (loop,) = [b for b in blocks if "methods.make" in b]
    exec(compile(loop, "methods.md", "exec"), names)
    assert names["masks"].n_removed == round(0.5 * names["masks"].n_total)
    zeros = [int((names[n][i].weight == 0).sum()) for n in ("sparse", "model") for i in (2, 5)]
    assert sum(zeros) == 2 * round(0.9 * (8 * 32 * 9 + 11520))


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_in_order(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    page = (API.parent / "tutorial.md").read_text()
    blocks = re.findall(r"```(sh|python)\n(.*?)```", page, flags=re.DOTALL)
    assert [kind for kind, _ in blocks].count("sh") == 7
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for kind, block in blocks:
        command = ["sh", "-e", "-c", block] if kind == "sh" else [sys.executable, "-c", block]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        if kind == "python":
            assert done.stdout == "bag\n"
    assert (tmp_path / "runs" / "clothes" / "model.onnx").stat().st_size < 150_000
