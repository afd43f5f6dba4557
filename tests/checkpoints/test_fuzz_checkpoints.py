"""Mutated checkpoints: no crash, no hang, no traceback, no memory beyond what the file holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits by /proc and RLIMIT_AS")


@pytest.mark.parametrize(
    ("seed", "n"), [(0, 300), *[pytest.param(s, 4000, marks=pytest.mark.slow) for s in (1, 2, 3)]]
)
def test_every_mutated_checkpoint_is_read_or_refused(tmp_path: Path, seed: int, n: int):
    fuzzer = Path(__file__).parents[1].joinpath("checkpoint_fuzzing.py")
    done = subprocess.run(
        [sys.executable, str(fuzzer), str(tmp_path), str(seed), str(n)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{tmp_path / 'last'}\n{done.stderr[-4000:]}"
    report = json.loads(done.stdout.splitlines()[-1])
    print(report)
    assert sum(report["outcome"].values()) == n
    assert report["outcome"]["refused, exit 2"] > 0.3 * n
    assert report["outcome"]["read"] > 0.05 * n  # values changed and nothing else
    assert report["grown_mb"] < 200
