"""The kernel library under sanitizers: no wrong output, no wild read, no race."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizer", "arguments"), [("ON", []), ("thread", ["100", "0", "1", "300", "1000"])]
)
def test_harness_under_sanitizers(tmp_path: Path, sanitizer: str, arguments: list[str]) -> None:
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no cmake or no C++ compiler")
    configure = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), f"-DFGGP_SANITIZE={sanitizer}"]
    subprocess.run(configure, check=True, capture_output=True)
    build = ["cmake", "--build", str(tmp_path), "--target", "fggp_harness"]
    subprocess.run(build, check=True, capture_output=True)
    done = subprocess.run(
        [str(tmp_path / "fggp_harness"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
