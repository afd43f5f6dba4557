from __future__ import annotations

import os

# Several workers share few cores, perhaps beside other jobs: one thread per process, and waiting
# threads sleep instead of spinning. Programs that tests start inherit it.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import contextlib
import fcntl
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

import fggp_deploy  # noqa: F401 - turns onnxruntime's telemetry off before a test imports it
from fggp_deploy.common import timing
from fggp_deploy.graph import shapes

pytest_plugins = ["verified"]  # its fixtures

torch.set_num_threads(1)

# No test depends on speed: the one limit is that of pytest-timeout, for a test that hangs.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(autouse=True, scope="session")
def idle_machine() -> Iterator[None]:
    """Whatever else runs beside the tests, no timed run of theirs counts as held up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "waited_seconds", lambda: 0.0)
        yield


@pytest.fixture(scope="module")
def shapes_in_process() -> Iterator[None]:
    """Shape inference without its child process, for tests that make many networks themselves.

    A fork of a process as large as that of the tests costs more than all else that they do.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "confined", lambda work, **_: work())
        yield


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


# Programs are forks of a server that has imported what they need, which is most of their time.
_PROGRAMS = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
_PROGRAMS.set_forkserver_preload(
    [
        "fggp_deploy.cli.main", "fggp_deploy", "onnxruntime", "torch", "scipy.stats",
        "fggp_deploy.report.files", "matplotlib.figure", "networkx",
        "fggp_deploy.verification.verify", "fggp_deploy.training.prune",
        "fggp_deploy.training.train", "fggp_deploy.exporters.run", "fggp_deploy.exporters.pack",
        "torch.onnx._internal.exporter._core", "torch._dynamo",
    ]
)  # fmt: skip


def _main(cwd: Path, args: list[str], env: dict[str, str], outputs: tuple[str, str]) -> None:
    """`fggp-deploy` with these arguments, in a process of its own."""
    os.chdir(cwd)
    os.environ.update(env)
    for stream, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY), stream)
    sys.stdin = open(os.devnull)  # noqa: SIM115 - as long as the process lives
    sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8") for n in (1, 2))
    sys.argv = ["fggp-deploy", *args]
    from fggp_deploy.cli.main import run

    run()


@dataclass(frozen=True)
class Program:
    """Runs `fggp-deploy` in its own process, in one folder."""

    cwd: Path

    def __call__(self, *args: object, **env: str) -> Ended:
        env = {"COLUMNS": "120", "XDG_CACHE_HOME": str(self.cwd.parent / "cache"), **env}
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("out", "err")]
            for file in files:
                file.touch()
            process = _PROGRAMS.Process(
                target=_main, args=(self.cwd, [*map(str, args)], env, tuple(map(str, files)))
            )
            process.start()
            try:
                process.join()
            finally:
                process.kill()  # only a test that ran into its time limit leaves it alive
            out, err = (file.read_text(encoding="utf-8") for file in files)
        return Ended(process.exitcode, out, err)

    def fresh(self, *args: object, **env: str) -> Ended:
        """In a new interpreter, which reads more of its environment."""
        command = [sys.executable, "-m", "fggp_deploy.cli", *map(str, args)]
        done = subprocess.run(
            command, cwd=self.cwd, env=os.environ | env, capture_output=True, text=True
        )
        return Ended(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def started(command: list[object], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with its output in pipes; it does not outlive the test."""
    process = subprocess.Popen(
        [*map(str, command)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the plans of sessions that is this test's alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def cifar_batch(path: Path, n: int, seed: int) -> None:
    """A batch file as CIFAR-10 has them, of noise that a network can learn to tell apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    images = rng.integers(0, 128, (n, 3072)) + 12 * labels[:, None]
    content = {b"data": images.astype(np.uint8), b"labels": labels.tolist()}
    path.write_bytes(pickle.dumps(content, protocol=3))


@pytest.fixture(scope="session")
def cifar(tmp_path_factory) -> Path:
    """A folder in CIFAR-10's layout: 240 training images, 60 held out, 20 to test."""
    root = tmp_path_factory.mktemp("cifar")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for i in range(1, 6):
        cifar_batch(folder / f"data_batch_{i}", 60, i)
    cifar_batch(folder / "test_batch", 20, 0)
    return root


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Program], None]) -> Path:
    """A folder that one worker makes for all; each gets a copy, which its tests may change."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all workers
    folder, unfinished = shared / f"made-{name}", shared / f"making-{name}"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(Program(unfinished))
            unfinished.rename(folder)
    return Path(shutil.copytree(folder, factory.mktemp(name), symlinks=True, dirs_exist_ok=True))


@pytest.fixture(scope="session")
def half_sparse(tmp_path_factory, cifar: Path) -> Path:
    """A 50%-sparse resnet20 that `train` made on that folder."""

    def make(program: Program) -> None:
        made = program("train", "--sparsity", "0.5", *tiny(cifar), "--out", "half", "--json")
        assert made.code == 0, made.err
        assert made.json["n_removed"] == round(0.5 * made.json["n_prunable"])

    return made_once(tmp_path_factory, "half", make) / "half" / "dense.safetensors"


# Options of `verify` for one setting that is timed for a moment.
QUICK = ["--threads", 1, "--batch", 1, "--no-int8", "--seconds", 0.2]


def tiny(cifar: Path) -> list[object]:
    """Options of a run that takes a second or two."""
    return ["--model", "resnet20", "--data", "cifar10", "--data-dir", cifar, "--epochs", 1,
            "--batch-size", 24]  # fmt: skip


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory) -> Program:
    """A folder in which `prune` (one epoch) and `export` have run with no path given."""

    def make(program: Program) -> None:
        pruned = program("prune", "--target", "0.98", "--epochs", "1", "--json")
        assert pruned.code == 0, pruned.err
        (program.cwd / "pruned.json").write_text(pruned.out)
        exported = program("export", "--format", "onnx", "--json")
        assert exported.code == 0, exported.err
        (program.cwd / "exported.json").write_text(exported.out)

    return Program(made_once(tmp_path_factory, "demo", make))
