"""The Node example gives Python's logits from packed and compiled files, on stock onnxruntime."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import golden_files as golden
import numpy as np
import pytest

from fggp_deploy import kernels
from fggp_deploy.format.model import SparseModel
from fggp_deploy.runtime.compile_to_file import compile_file
from fggp_deploy.runtime.sessions import SessionConfig

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "node" / "run_model.js"


def node(*args: object) -> subprocess.CompletedProcess[str]:
    command = ["node", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLE.parent)


@pytest.fixture(scope="module", autouse=True)
def _binding() -> None:
    if not shutil.which("node") or node("-e", "require('onnxruntime-node')").returncode:
        pytest.skip("no node, or no onnxruntime-node")


@pytest.mark.parametrize("kind", ["packed", "compiled"])
def test_logits_are_those_of_python(kind: str, tmp_path: Path) -> None:
    path = golden.ONNX
    if kind == "compiled":
        if kernels.library_path() is None:
            pytest.skip("no kernel library to compile for")
        path = compile_file(path, tmp_path / "fast.onnx", measure=False).path
    meta = SparseModel.open(path).metadata
    assert meta.selftest is not None
    done = node(EXAMPLE, path, 1, len(meta.selftest.logits), meta.selftest.seed)
    assert done.returncode == 0, done.stderr
    got = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    x = meta.selftest.images()
    (want,) = SessionConfig(1).open(path, on_kernels=False).run(None, {"input": x})
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * abs(want).max())
    assert meta.selftest.passes({"logits": got})
    *tops, latency = done.stderr.splitlines()
    assert tops == [f"image {i}: class {top}" for i, top in enumerate(want.argmax(1))]
    assert latency.startswith("median of 200 runs: ")


@pytest.mark.parametrize(
    "args", [(), ("missing.onnx", 1, 1, 0), (golden.ONNX, "x", 1, 0)], ids=["none", "file", "text"]
)
def test_errors_are_one_line(args: tuple[object, ...]) -> None:
    done = node(EXAMPLE, *args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
