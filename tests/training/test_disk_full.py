"""A full disk is never a bug of ours, nor the fault of a file: exit code 3 and the cure."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer

from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo
from fggp_deploy.checkpoints.run_folder import RESUME
from fggp_deploy.cli.exit_codes import with_exit_codes
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import MachineError, ModelFileError
from fggp_deploy.exporters import state_dict
from fggp_deploy.measure.process import measure_processes
from fggp_deploy.runtime.costs import read_profile
from fggp_deploy.training import savepoint
from fggp_deploy.training.log import RunLog
from fggp_deploy.training.observer import EpochMetrics

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sample() -> Checkpoint:
    info = CheckpointInfo("net", "data", ("a", "b"), Preprocessing(2, 2, (0.5,), (0.25,)))
    return Checkpoint({"w": np.eye(2, 3, dtype=np.float32)}, {}, info)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that Python writes whole is cut in the middle."""

    def write_bytes(path: Path, content: bytes) -> int:
        with path.open("wb") as f:
            f.write(content[: len(content) // 2])
        raise FULL

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


@pytest.mark.usefixtures("full_disk")
def test_a_savepoint(tmp_path: Path):
    with pytest.raises(MachineError, match="the disk is full"):
        savepoint.write(tmp_path, 1, sample(), {"step": 1})
    assert list((tmp_path / RESUME).iterdir()) == []


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_state_dict(tmp_path: Path, suffix: str):
    with pytest.raises(MachineError, match="the disk is full"):
        state_dict.write(sample(), tmp_path / f"w{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_the_log_of_a_run(tmp_path: Path):
    log = RunLog(tmp_path, SimpleNamespace())
    log._lines.close()
    log._lines = open("/dev/full", "a")  # noqa: SIM115, the log closes it
    metrics = EpochMetrics(*[0] * 7, {}, {})
    with pytest.raises(MachineError, match="the disk is full"):
        log.on_epoch(metrics)


def test_a_profile_that_was_cut(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "profile.json"
    path.write_text('[{"cat": "Node"},')
    with pytest.raises(MachineError, match=r"temporary files cannot be written .*TMPDIR"):
        read_profile(path)
    path.write_text('[{"cat": "Node"}]')
    assert read_profile(path) == [{"cat": "Node"}]


@pytest.mark.parametrize(("code", "kind"), [(3, MachineError), (2, ModelFileError)])
def test_what_a_measured_process_says_of_itself(monkeypatch, code: int, kind: type[Exception]):
    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, "", "temporary files cannot be written")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(kind, match="fails in a fresh process: temporary files"):
        measure_processes({"model": Path("m.onnx")}, input_shape=(1, 1, 1, 1), threads=1)


def test_a_write_that_nobody_thought_of(capsys):
    @with_exit_codes
    def command() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a")

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 3
    assert capsys.readouterr().err == (
        "error: cannot write runs/a: the disk is full; free some space\n"
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "2.00 GiB"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_full_memory_is_no_bug_of_ours(error: Exception, says: str, capsys):
    @with_exit_codes
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 3
    line = capsys.readouterr().err
    assert line.startswith("error: there is not enough memory (")
    assert says in line
