"""A torchvision whose compiled operators do not load, as a CUDA build beside a CPU-only torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What torchvision does at import: load its operators if that works, then describe them to torch.
PACKAGE = """
import os
import torch

__version__ = "9.9+other"
try:
    torch.ops.load_library(os.path.join(os.path.dirname(__file__), "_C.so"))
except OSError:
    pass
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: dets)
"""
NET = """
import torchvision
from torch import nn

def make():
    return nn.Linear(2, 2)

def make_later():
    import torchvision
    return nn.Linear(2, 2)
"""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with such a torchvision, and a network's file."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "torchvision" / "_C.so").write_bytes(b"no library")
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "lazy.py").write_text(NET.replace("import torchvision\n", "", 1))
    return tmp_path


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("spec", ["net.py:make", "lazy.py:make_later"])
def test_a_users_file_may_import_it(broken: Path, spec: str):
    load = "from fggp_deploy.common.user_code import load_function\n"
    call = f"print(load_function({spec!r}, trust_code=True)())"
    alone = run(broken, "import torchvision")
    assert "torchvision::nms" in alone.stderr
    done = run(broken, load + call)
    assert "Linear" in done.stdout, done.stderr


def test_a_users_file_that_needs_no_torchvision_does_not_wait_for_it(broken: Path):
    (broken / "plain.py").write_text("def make():\n    return 7\n")
    load = "import sys\nfrom fggp_deploy.common.user_code import load_function\n"
    call = "print(load_function('plain.py:make', trust_code=True)(), 'torch' in sys.modules)"
    assert run(broken, load + call).stdout == "7 False\n"


def test_doctor_says_that_it_is_broken_and_how_to_mend_it(program, broken: Path):
    ended = program.fresh("doctor", PYTHONPATH=str(broken))
    assert ended.code == 0, ended.err
    (line,) = [line for line in ended.out.splitlines() if " torchvision: " in line]
    assert line.startswith("BROKEN   torchvision: 9.9+other was not built for torch 2.")
    assert "install torch and torchvision together" in line


def test_doctor_reports_a_torchvision_that_fails_for_another_reason(program, broken: Path):
    (broken / "torchvision" / "__init__.py").write_text("import no_such_codec")
    ended = program.fresh("doctor", PYTHONPATH=str(broken))
    assert ended.code == 0, ended.err
    assert "torchvision cannot be imported (ModuleNotFoundError: No module named" in ended.out
