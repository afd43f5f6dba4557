from __future__ import annotations

import dataclasses
import re
import runpy
from pathlib import Path

from fggp_deploy import data, runtime
from fggp_deploy.artifacts.sparse_model import SparseModel
from fggp_deploy.data import mnist

EXAMPLES = Path(__file__).parent.parent / "examples"
FULL = data.load()
SMALL = dataclasses.replace(
    FULL, **{p: getattr(FULL, p).first(1024) for p in ("train", "val", "test")}
)
API = Path(__file__).parent.parent / "docs" / "api.md"


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
    assert len(blocks) == 6
    assert names["masks"].n_removed == round(0.9 * (8 * 32 * 9 + 1280))
    assert (tmp_path / "own.onnx").is_file()
    assert (tmp_path / "run" / "report.json").is_file()
