from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

# several workers share few cores; threads beyond them only wait for each other
torch.set_num_threads(1)


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Program:
    """Runs `fggp-deploy` in its own process, in one folder."""

    cwd: Path

    def __call__(self, *args: object, **env: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "fggp_deploy.cli", *map(str, args)],
            cwd=self.cwd, capture_output=True, text=True, timeout=280,
            env={**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1", **env},
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory) -> Program:
    """A folder in which `prune` (one epoch) and `export` have run with no path given."""
    program = Program(tmp_path_factory.mktemp("demo"))
    pruned = program("prune", "--target", "0.98", "--epochs", "1", "--json")
    assert pruned.code == 0, pruned.err
    (program.cwd / "pruned.json").write_text(pruned.out)
    exported = program("export", "--format", "onnx", "--json")
    assert exported.code == 0, exported.err
    (program.cwd / "exported.json").write_text(exported.out)
    return program
