"""The kernels for 64-bit Arm, cross-built and run by an emulator against the reference."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "test_arm64.sh"
MISSING_TOOL = 3  # the exit code of the script


@pytest.mark.slow
def test_neon_agrees_with_the_reference(tmp_path: Path) -> None:
    command = [str(SCRIPT), "--build", str(tmp_path), "--programs", "2000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == MISSING_TOOL:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
