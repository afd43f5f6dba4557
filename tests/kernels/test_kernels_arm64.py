"""The kernels for 64-bit Arm, cross-built and run by an emulator against the reference."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.mark.slow
def test_neon_agrees_with_the_reference(tmp_path: Path) -> None:
    if not all(shutil.which(tool) for tool in ("cmake", COMPILER, EMULATOR)):
        pytest.skip(f"needs cmake, {COMPILER} and {EMULATOR} (g++-aarch64-linux-gnu, qemu-user)")
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(tmp_path), "-DFGGP_HARNESS=ON",
        "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={COMPILER}",
    ]  # fmt: skip
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(tmp_path)], check=True, capture_output=True)
    # the second has no dot product of bytes
    for processor, n in (("max", "5000"), ("cortex-a53", "1000")):
        emulated = [EMULATOR, "-cpu", processor, "-L", "/usr/aarch64-linux-gnu"]
        done = subprocess.run(
            [*emulated, str(tmp_path / "fggp_harness"), n, n],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(f"neon portable agree on {n} programs")
