"""The C++ example builds against the wheel's library and gives Python's logits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import golden_files as golden
import numpy as np
import onnxruntime.capi
import pytest

from fggp_deploy import kernels
from fggp_deploy.format.model import SparseModel
from fggp_deploy.runtime.compile_to_file import compile_file
from fggp_deploy.runtime.sessions import SessionConfig

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpp"
RUNTIME = next(Path(onnxruntime.capi.__path__[0]).glob("libonnxruntime.so.1.*"), None)

if kernels.library_path() is None or RUNTIME is None or not shutil.which("cmake"):
    pytest.skip("no kernel library, no libonnxruntime.so or no cmake", allow_module_level=True)


@pytest.fixture(scope="module")
def run_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("cpp")
    for command in (
        ["cmake", "-S", str(EXAMPLE), "-B", str(build), f"-DORT_LIBRARY={RUNTIME}"],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    return build / "run_model"


def logits(run_model: Path, *args: object) -> np.ndarray:
    done = subprocess.run([run_model, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.array([line.split() for line in done.stdout.splitlines()], np.float32)


@pytest.mark.parametrize("kind", ["packed", "compiled"])
@pytest.mark.parametrize("on_kernels", [False, True])
def test_logits_are_those_of_python(
    kind: str, on_kernels: bool, run_model: Path, tmp_path: Path
) -> None:
    path = golden.ONNX
    if kind == "compiled":
        path = compile_file(path, tmp_path / "fast.onnx", measure=False).path
    meta = SparseModel.open(path).metadata
    assert meta.selftest is not None
    library = kernels.library_path() if on_kernels else "none"
    got = logits(run_model, path, library, 1, len(meta.selftest.logits), meta.selftest.seed)
    x = meta.selftest.images()
    (want,) = SessionConfig(1).open(path, on_kernels=on_kernels).run(None, {"input": x})
    np.testing.assert_array_equal(got, want)
    assert meta.selftest.passes({"logits": got})


@pytest.mark.parametrize(
    ("args", "code"), [((), 2), (("missing.onnx", "none", 1, 1, 0), 2)], ids=["none", "missing"]
)
def test_errors_are_one_line(args: tuple[object, ...], code: int, run_model: Path) -> None:
    done = subprocess.run([run_model, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
