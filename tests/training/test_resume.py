"""A run that is interrupted at any moment ends as if it had never been interrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import killing
import numpy as np
import pytest
import torch
import yaml
from killing import Quiet, config, dense, digests, saved_step
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.checkpoints.run_folder import checkpoint_in, held
from fggp_deploy.errors import (
    CheckpointError,
    ConfigError,
    FggpWarning,
    MachineError,
    ResumeRefused,
    Stopped,
    TrainingDiverged,
)
from fggp_deploy.exporters.options import ExportOptions
from fggp_deploy.exporters.run import export_run
from fggp_deploy.training import precision, savepoint
from fggp_deploy.training import run as runs
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.prune import prepare_pruning, prune
from fggp_deploy.training.resume import Origin
from fggp_deploy.training.train import train

SMALL = {"epochs": 3, "batch_size": 32, "updates": 3}  # 15 steps, the first target's end is step 8
TRAINING = TrainConfig(
    model="tiny", data="noise", epochs=2, batch_size=32, sparsity=0.5, save_every=0, device="cpu"
)


@pytest.fixture(autouse=True)
def _tiny_network_and_data(monkeypatch):
    monkeypatch.setitem(killing.MODELS, "tiny", killing.tiny)
    monkeypatch.setattr(killing.datasets, "load", killing.noise)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which is slow, and for power cuts alone


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    return dense(tmp_path_factory.mktemp("dense") / "dense.pt")


Change = Callable[[dict], dict]


class Cut(BaseException):
    pass


def cut_after(monkeypatch, step: int) -> None:
    """Whatever runs next ends right after the savepoint of that step."""
    write = savepoint.write

    def and_end(folder: Path, at: int, *rest: object) -> Path:
        path = write(folder, at, *rest)
        if at == step:
            raise Cut
        return path

    monkeypatch.setattr(runs.savepoint, "write", and_end)


def cut_run(monkeypatch, options, out: Path, step: int) -> None:
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_after(patch, step)
        prune(options, observer=Quiet(), out=out)


def tensors(path: Path) -> dict[str, bytes]:
    c = Checkpoint.open(path)
    return {n: a.tobytes() for n, a in {**c.tensors, **c.masks}.items()}


def test_interrupted_after_any_step_the_result_is_the_same(tmp_path, parent, monkeypatch):
    options = config(parent, **SMALL)
    whole = prune(options, observer=Quiet(), out=tmp_path / "whole")
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    for step in (1, 4, 5, 6, 7, 8, 9, 14):  # epochs end at 5 and 10, targets at 8 and 15
        out = tmp_path / f"cut{step}"
        cut_run(monkeypatch, options, out, step)
        random.seed(step), np.random.seed(step), torch.manual_seed(step)
        result = prune(options, observer=Quiet(), out=out)
        assert [r.digest for r in result.results] == [r.digest for r in whole.results], step
        again = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        for old, new in zip(map(json.loads, lines), again, strict=True):
            timed = {"seconds", "images_per_second"}
            assert {k: v for k, v in old.items() if k not in timed} == {
                k: v for k, v in new.items() if k not in timed
            }
        assert not (out / "resume").exists()
    for name in ("pruned-0.50", "pruned-0.80", "pruned"):
        old, new = (tensors(tmp_path / d / f"{name}.safetensors") for d in ("whole", "cut9"))
        assert old == new


def test_pruning_in_blocks_resumes_too(tmp_path, parent, monkeypatch):
    options = config(parent, **SMALL, pattern="1x4")
    whole = prune(options, observer=Quiet(), out=tmp_path / "whole")
    assert all(r.n_removed == round(r.target * r.n_prunable) // 4 * 4 for r in whole.results)
    cut_run(monkeypatch, options, tmp_path / "cut", 7)
    result = prune(options, observer=Quiet(), out=tmp_path / "cut")
    assert [r.digest for r in result.results] == [r.digest for r in whole.results]
    plain = config(parent, **SMALL)
    with pytest.raises(ResumeRefused, match=r"pattern is '1x4' in that run, None now"):
        prune(plain, observer=Quiet(), out=tmp_path / "cut")


def test_a_resumed_run_keeps_the_precision_that_it_chose(tmp_path, parent, monkeypatch):
    options = config(parent, **SMALL, precision="auto")
    monkeypatch.setattr(precision, "step_seconds", lambda *_, **__: (2.0, 1.0))
    whole = prune(options, observer=Quiet(), out=tmp_path / "whole")
    cut_run(monkeypatch, options, tmp_path / "cut", 7)
    monkeypatch.setattr(precision, "step_seconds", lambda *_, **__: (1.0, 2.0))
    result = prune(options, observer=Quiet(), out=tmp_path / "cut")
    assert [r.digest for r in result.results] == [r.digest for r in whole.results]
    for run in ("whole", "cut"):
        assert yaml.safe_load((tmp_path / run / "config.yaml").read_text())["precision"] == "bf16"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("n_kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_result_is_the_same(tmp_path, n_kills: int):
    done = subprocess.run(
        [sys.executable, killing.__file__, tmp_path, str(n_kills), "0"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["moments"]) == n_kills
    assert any(result["moments"])
    assert all(run == result["whole"] for run in result["runs"])
    (folder,) = {tmp_path / "run0"}
    assert not [p for p in folder.rglob("*") if p.suffix == ".tmp"]


def test_every_generator_resumes(tmp_path, parent, monkeypatch):
    def draws() -> list[object]:
        return [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(),
                np.random.randn(), random.gauss(0, 1)]  # fmt: skip

    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    np.random.randn(), random.gauss(0, 1)  # each keeps a second number for the next call
    session = prepare_pruning(config(parent, **SMALL)).session
    torch.manual_seed(3)
    state = session.state_dict()
    model = {n: t.clone() for n, t in session.model.state_dict().items()}
    want = draws()
    assert draws() != want
    session.load_state_dict(model, state)
    assert draws() == want


def test_train_resumes_too(tmp_path, monkeypatch):
    whole = train(TRAINING, observer=Quiet(), out=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_after(patch, 7)
        train(TRAINING, observer=Quiet(), out=tmp_path / "cut")
    assert train(TRAINING, observer=Quiet(), out=tmp_path / "cut").digest == whole.digest


def test_two_savepoints_are_kept_and_a_damaged_one_falls_back(tmp_path, parent, monkeypatch):
    options = config(parent, **SMALL)
    whole = prune(options, observer=Quiet(), out=tmp_path / "whole")
    for name, damage in {
        "flipped": lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:],
        "cut": lambda raw: raw[: len(raw) // 2],
        "empty": lambda raw: b"",
    }.items():
        out = tmp_path / name
        cut_run(monkeypatch, options, out, 11)
        assert sorted(p.name for p in (out / "resume").iterdir()) == [
            "step-000000010.safetensors", "step-000000011.safetensors",
        ]  # fmt: skip
        last = out / "resume" / "step-000000011.safetensors"
        last.write_bytes(damage(last.read_bytes()))
        with pytest.warns(FggpWarning, match="is damaged .*; trying the one before"):
            result = prune(options, observer=Quiet(), out=out)
        assert result.digest == whole.digest


def test_all_savepoints_damaged_is_an_error(tmp_path, parent, monkeypatch):
    cut_run(monkeypatch, config(parent, **SMALL), tmp_path / "run", 3)
    for path in (tmp_path / "run" / "resume").iterdir():
        path.write_bytes(b"\x07")
    with (
        pytest.warns(FggpWarning, match="is damaged"),
        pytest.raises(CheckpointError, match=r"delete .*run and start again"),
    ):
        prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "run")


def _with_generator(state: dict, generator: torch.Tensor) -> dict:
    return state | {"random": state["random"] | {"torch": generator}}


@pytest.mark.parametrize(
    ("model", "state", "says"),
    [
        (
            lambda m: m | {"0.bias": torch.zeros(3)},
            dict,
            r"0.bias is \(3,\) in the file and \(8,\)",
        ),
        (lambda m: m | {"new": torch.zeros(3)}, dict, r"new is \(3,\) .* missing in the network"),
        (dict, lambda s: s | {"optimizer": None}, "not subscriptable"),
        (dict, lambda s: _with_generator(s, torch.zeros(3, dtype=torch.uint8)), "state size"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    tmp_path, parent, monkeypatch, model: Change, state: Change, says: str
):
    cut_run(monkeypatch, config(parent, **SMALL), tmp_path / "run", 3)
    saved = savepoint.latest(tmp_path / "run")
    other = replace(saved, model=model(dict(saved.model)), state=state(dict(saved.state)))
    monkeypatch.setattr(savepoint, "latest", lambda _: other)
    with pytest.raises(
        CheckpointError, match=f"does not fit the network and options of its run .*{says}"
    ):
        prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "run")


def test_a_device_without_memory_is_not_blamed_on_the_savepoint(tmp_path, parent, monkeypatch):
    cut_run(monkeypatch, config(parent, **SMALL), tmp_path / "run", 3)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.optim.Optimizer, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target": (0.5, 0.9)}, r"target is \[0.5, 0.8\] in that run, \[0.5, 0.9\] now"),
        ({"lr": 0.2, "seed": 3}, "lr is 0.05 in that run, 0.2 now; seed is 0 in that run, 3 now"),
        ({"model": "resnet20"}, "model is 'tiny' in that run, 'resnet20' now"),
    ],
)
def test_other_options_are_refused(tmp_path, parent, monkeypatch, changes: dict, says: str):
    cut_run(monkeypatch, config(parent, **SMALL), tmp_path / "run", 3)
    with pytest.raises(ResumeRefused, match=says):
        prune(config(parent, **{**SMALL, **changes}), observer=Quiet(), out=tmp_path / "run")


def test_other_inputs_are_refused(tmp_path, parent, monkeypatch):
    out = tmp_path / "run"
    cut_run(monkeypatch, config(parent, **SMALL), out, 3)
    torch.manual_seed(8)
    torch.save(killing.tiny(4, 1).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ResumeRefused, match="began with another checkpoint"):
        prune(config(tmp_path / "other.pt", **SMALL), observer=Quiet(), out=out)
    data = killing.noise()
    data.train.labels[0] = (data.train.labels[0] + 1) % 4
    with monkeypatch.context() as patch, pytest.raises(ResumeRefused, match="another data"):
        patch.setattr(killing.datasets, "load", lambda *_: data)
        prune(config(parent, **SMALL), observer=Quiet(), out=out)
    data = killing.noise()
    data.train.images[0, 5, 5, 0] ^= 1
    with monkeypatch.context() as patch, pytest.raises(ResumeRefused, match="with other images"):
        patch.setattr(killing.datasets, "load", lambda *_: data)
        prune(config(parent, **SMALL), observer=Quiet(), out=out)
    Checkpoint.open(out / "parent.safetensors")
    raw = bytearray((out / "parent.safetensors").read_bytes())
    raw[-1] ^= 1
    (out / "parent.safetensors").write_bytes(bytes(raw))
    with pytest.raises(ResumeRefused, match="began with another dense model"):
        prune(config(parent, **SMALL), observer=Quiet(), out=out)


OWN = """
import killing
def make(num_classes, in_channels):
    return killing.tiny(num_classes, in_channels)
"""


def test_other_code_of_the_users_own_network_is_refused(tmp_path, parent, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "net.py").write_text(OWN)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "net.py").write_text(OWN)
    own = {**SMALL, "trust_code": True}
    first = config(parent, **own, model=f"{tmp_path}/a/net.py:make")
    whole = prune(first, observer=Quiet(), out=tmp_path / "whole")
    cut_run(monkeypatch, first, tmp_path / "run", 3)
    (tmp_path / "a" / "net.py").write_text(OWN.replace("return", "in_channels += 0; return"))
    with pytest.raises(
        ResumeRefused, match="began with other code of its network; give the same inputs"
    ):
        prune(first, observer=Quiet(), out=tmp_path / "run")
    moved = config(parent, **own, model=f"{tmp_path}/b/net.py:make")  # the same file elsewhere
    assert prune(moved, observer=Quiet(), out=tmp_path / "run").digest == whole.digest


def test_another_number_of_threads_warns(tmp_path, parent, monkeypatch):
    cut_run(monkeypatch, config(parent, **SMALL), tmp_path / "run", 3)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 7)
        with pytest.warns(FggpWarning, match=r"began on \d+ threads? and resumes on 7"):
            prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "run")


def test_a_run_of_a_version_that_compared_no_images_resumes(tmp_path, parent, monkeypatch):
    def old(session, **known) -> Origin:
        of_today = begin(session, **known)
        return replace(of_today, images_sha256=None, model_code_sha256=None, n_threads=None)

    begin = Origin.of
    with monkeypatch.context() as patch:
        patch.setattr(Origin, "of", old)
        cut_run(monkeypatch, config(parent, **SMALL), tmp_path / "run", 3)
    (saved,) = (tmp_path / "run" / "resume").glob("step-000000003*")
    assert savepoint.read(saved).state["origin"]["images_sha256"] is None
    assert prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "run").n_test == 40


def test_the_checkpoint_may_be_gone_and_the_pace_of_saving_may_change(
    tmp_path, parent, monkeypatch
):
    mine = dense(tmp_path / "mine.pt")
    whole = prune(config(mine, **SMALL), observer=Quiet(), out=tmp_path / "whole")
    cut_run(monkeypatch, config(mine, **SMALL), tmp_path / "run", 5)
    mine.unlink()
    later = config(mine, **SMALL, save_every=10.0)
    result = prune(later, observer=Quiet(), out=tmp_path / "run")
    assert result.digest == whole.digest
    parents = [Checkpoint.open(tmp_path / d / "pruned.safetensors") for d in ("whole", "run")]
    assert parents[0].info.reference_sha256 == parents[1].info.reference_sha256


def test_a_finished_run_says_so_and_stays(tmp_path, parent):
    options = config(parent, **SMALL)
    first = prune(options, observer=Quiet(), out=tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    with pytest.warns(FggpWarning, match="holds a finished run, which is kept"):
        assert prune(options, observer=Quiet(), out=tmp_path / "run") == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()} == before


def test_tensorboard_has_each_step_once(tmp_path, parent, monkeypatch):
    options = config(parent, **SMALL, save_every=1e-9)
    out = tmp_path / "run"
    cut_run(monkeypatch, options, out, 9)
    for path in sorted((out / "resume").iterdir())[1:]:
        path.unlink()  # so that step 8 is the last, and what was written since is written again
    cut_run(monkeypatch, options, out, 13)
    (out / "resume" / "step-000000013.safetensors").unlink()
    with (out / "metrics.jsonl").open("a") as f:
        f.write('{"epoch": 3, "st')  # a line that was being written
    prune(options, observer=Quiet(), out=out)
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [5, 10, 15]
    assert [e.step for e in events.Scalars("sparsity_of/8.weight")] == [5, 10, 15]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in lines] == [5, 10, 15]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path, parent, number: signal.Signals):
    whole = prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "whole")

    class Signalling(Quiet):
        def on_epoch(self, metrics) -> None:
            os.kill(os.getpid(), number)

    options = config(parent, **SMALL, save_every=60.0)
    with pytest.raises(Stopped, match=f"stopped by {number.name} after step 5 of 15") as stopped:
        prune(options, observer=Signalling(), out=tmp_path / "run")
    assert stopped.value.exit_code == 128 + number
    assert saved_step(tmp_path / "run") == 5
    result = prune(options, observer=Quiet(), out=tmp_path / "run")
    assert result.digest == whole.digest
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


def test_the_network_of_a_cut_run_is_exported_beside_its_folder(tmp_path, parent, monkeypatch):
    out = tmp_path / "run"
    cut_run(monkeypatch, config(parent, **SMALL), out, 7)
    made = export_run(checkpoint_in(out), ExportOptions(format="onnx-dense"))
    assert made.path.parent == out
    assert made.reference == out / "reference.onnx"
    assert made.notes[0].startswith("the run is not finished, this is its network after step 7: ")
    for path in (out / "resume").glob("step-*"):
        path.unlink()
    with pytest.raises(
        ConfigError, match=f"before its first savepoint; `fggp-deploy prune --out {out}`"
    ):
        checkpoint_in(out)


def test_a_run_of_a_version_with_fewer_options_resumes(tmp_path, parent, monkeypatch):
    options, out = config(parent, **SMALL), tmp_path / "run"
    cut_run(monkeypatch, options, out, 8)
    path = out / "config.yaml"
    saved = yaml.safe_load(path.read_text())
    assert saved.pop("int8_aware") is False
    assert saved["method_set"].pop("reinit") == "none"
    path.write_text(yaml.safe_dump(saved))
    with pytest.raises(ResumeRefused, match="int8_aware is False in that run, True now"):
        prune(config(parent, **SMALL, int8_aware=True), observer=Quiet(), out=out)
    assert prune(options, observer=Quiet(), out=out).test_accuracy is not None


def test_two_processes_cannot_work_in_one_folder(tmp_path, parent, monkeypatch):
    cut_run(monkeypatch, config(parent, **SMALL), tmp_path / "run", 3)
    with held(tmp_path / "run"), pytest.raises(ConfigError, match="another process is using"):
        prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "run")


@pytest.mark.parametrize("begin", [prune, train])
def test_a_divergence_keeps_the_last_good_state(tmp_path, parent, begin):
    options = config(parent, **SMALL, lr=1e9)
    if begin is train:
        options = replace(TRAINING, lr=1e9)
    advice = f"`fggp-deploy {begin.__name__} --checkpoint"
    with pytest.raises(
        TrainingDiverged, match=f"try a lower --lr.*the last good state is kept: {advice}"
    ):
        begin(options, observer=Quiet(), out=tmp_path / "run")
    kept = sorted((tmp_path / "run" / "resume").iterdir())
    assert kept
    for path in kept:
        Checkpoint.open(path)  # which refuses what is not finite


def test_config_yaml_is_the_resolved_configuration(tmp_path, parent):
    prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "run")
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved == config(parent, **SMALL).to_dict()


def test_a_full_disk_does_not_end_a_run(tmp_path, parent, monkeypatch):
    whole = prune(config(parent, **SMALL, save_every=60.0), observer=Quiet(), out=tmp_path / "a")

    def full(*_: object) -> None:
        raise MachineError("cannot write: the disk is full")

    monkeypatch.setattr(runs.savepoint, "write", full)
    with pytest.warns(FggpWarning, match="the disk is full; the run continues without a savepoint"):
        result = prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "run")
    assert result.digest == whole.digest
