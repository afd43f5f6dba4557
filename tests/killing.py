"""Runs a pruning run again and again, killing it at random moments, and compares what comes out.

    python tests/killing.py FOLDER KILLS SEED

A process of its own that has everything imported forks each run, so that a kill costs no start-up.
Prints one JSON object: `whole`, the digests of a run that nobody killed; `runs`, those of each run
that was killed, and went on, until it was done; `moments`, the step saved last at each kill.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fggp_deploy import data as datasets
from fggp_deploy.data.types import Dataset, Preprocessing, Split
from fggp_deploy.models import MODELS
from fggp_deploy.training import prune as pruning
from fggp_deploy.training.config import PruneConfig


class Quiet:
    def on_data(self, *_: object) -> None: ...
    def on_start(self, *_: object) -> None: ...
    def on_dense_accuracy(self, *_: object) -> None: ...
    def on_step(self, *_: object) -> None: ...
    def on_epoch(self, *_: object) -> None: ...


def tiny(num_classes: int, in_channels: int) -> nn.Module:
    """A network whose training draws from torch's own generator too."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2),
        nn.Flatten(), nn.Linear(64, num_classes),
    )  # fmt: skip


def noise(*_: object) -> Dataset:
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        y = rng.integers(0, 4, n)
        x = rng.integers(0, 100, (n, 12, 12, 1)) + 40 * y[:, None, None, None]
        return Split(x.astype(np.uint8), y.astype(np.int64))

    prep = Preprocessing(12, 12, (0.5,), (0.25,))
    return Dataset("noise", tuple("abcd"), split(160), split(40), split(40), prep)


def config(checkpoint: Path, **changes: object) -> PruneConfig:
    options = {
        "model": "tiny", "data": "noise", "checkpoint": checkpoint, "target": (0.5, 0.8),
        "epochs": 3, "batch_size": 16, "updates": 6, "distill": 0.5, "ema": 0.8, "bn_images": 64,
        "label_smoothing": 0.1, "save_every": 0.0, "device": "cpu",
    }  # fmt: skip
    return PruneConfig(**{**options, **changes})


def install() -> None:
    """Register the network and the data; no sync, since only a power cut can lose what it keeps."""
    MODELS["tiny"] = tiny
    datasets.load = noise
    os.fsync = lambda _: None


def dense(path: Path) -> Path:
    torch.manual_seed(7)
    torch.save(tiny(4, 1).state_dict(), path)
    return path


def forked(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> bool:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done and status:
        raise SystemExit(f"a run failed by itself: status {status}")
    return bool(done)


def saved_step(folder: Path) -> int:
    """The newest savepoint's step, 0 if there is none."""
    names = [p.stem for p in (folder / "resume").glob("step-*.safetensors")]
    return max((int(n.removeprefix("step-")) for n in names), default=0)


def digests(folder: Path) -> list[str]:
    summary = json.loads((folder / "summary.json").read_text())
    return [r["digest"] for r in summary["results"]]


def main(folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    importlib.import_module("torch.utils.tensorboard")  # so that no child has to

    install()
    rng = random.Random(seed)
    options = config(dense(folder / "dense.pt"))

    def run(out: Path) -> int:
        return forked(lambda: pruning.prune(options, observer=Quiet(), out=out))

    pid = run(folder / "whole")
    while not ended(pid):
        time.sleep(0.005)
    moments: list[int] = []
    finished = []
    while len(moments) < kills or not finished:
        out = folder / f"run{len(finished)}"
        while True:
            # by what is done rather than by the clock, so that a busy machine changes nothing:
            # after some more steps, and then anywhere within one
            until, pause = saved_step(out) + rng.randint(0, 15), rng.uniform(0, 0.02)
            pid = run(out)
            while not (done := ended(pid)):
                if len(moments) < kills and saved_step(out) >= until:
                    time.sleep(pause)
                    break
                time.sleep(0.003)
            if done or ended(pid):
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            moments.append(saved_step(out))
        finished.append(digests(out))
    result = {"whole": digests(folder / "whole"), "runs": finished, "moments": moments}
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
