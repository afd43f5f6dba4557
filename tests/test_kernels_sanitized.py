"""The kernel library under ASan and UBSan: random chains agree, damaged ones are refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_harness_under_sanitizers(tmp_path: Path) -> None:
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no cmake or no C++ compiler")
    configure = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-DFGGP_SANITIZE=ON"]
    subprocess.run(configure, check=True, capture_output=True)
    build = ["cmake", "--build", str(tmp_path), "--target", "fggp_harness"]
    subprocess.run(build, check=True, capture_output=True)
    done = subprocess.run(
        [str(tmp_path / "fggp_harness")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
