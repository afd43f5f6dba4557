from __future__ import annotations

import runpy
from pathlib import Path

from fggp_deploy.artifacts.sparse_model import SparseModel

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_plain_loop(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["plain_loop.py", str(tmp_path / "own.onnx")])
    runpy.run_path(str(EXAMPLES / "plain_loop.py"), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"removed {round(0.9 * (16 * 64 * 9 + 2560))} of {16 * 64 * 9 + 2560}")
    assert SparseModel.open(tmp_path / "own.onnx").metadata.selftest is not None
