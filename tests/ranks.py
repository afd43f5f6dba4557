"""Runs jobs on several ranks by gloo, and reports what each rank found.

    python tests/ranks.py FOLDER JOB...

A process of its own that has everything imported forks the ranks of each job, so that they cost no
start-up. Prints one JSON object: job → [{"code": exit status, "found": …, "error": …} by rank].
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import killing
import torch
import torch.distributed as dist
from killing import Quiet, config, dense, saved_step
from torch import nn

from fggp_deploy import FGGP, Cubic, Pruner
from fggp_deploy.cli import main as cli
from fggp_deploy.distributed.ranks import Ranks, joined
from fggp_deploy.pruning.methods.ablations import MeanGradient
from fggp_deploy.pruning.methods.dpp import DPP
from fggp_deploy.pruning.methods.granet import GraNet
from fggp_deploy.pruning.methods.grasp import GraSP
from fggp_deploy.pruning.methods.lottery import Lottery, Rounds
from fggp_deploy.pruning.methods.parts.growing_regularization import GrowingReg, Growth
from fggp_deploy.pruning.methods.parts.one_shot import LayerwiseOneShot
from fggp_deploy.pruning.methods.parts.regrowth import Dynamic, Exchanges
from fggp_deploy.pruning.methods.parts.reinit import Reinit
from fggp_deploy.pruning.methods.rigl import by_chance, by_gradient
from fggp_deploy.pruning.methods.second_order import SecondOrder
from fggp_deploy.pruning.methods.snip import SNIP
from fggp_deploy.pruning.methods.synflow import SynFlow
from fggp_deploy.pruning.methods.unification import Unification
from fggp_deploy.pruning.methods.wanda import wanda
from fggp_deploy.pruning.schedules import Cosine
from fggp_deploy.training.prune import prepare_pruning, prune

CPU = torch.device("cpu")
SMALL = {"epochs": 3, "batch_size": 32, "updates": 3}  # 15 steps
JOBS: dict[str, tuple[int, Callable[[Path], Any]]] = {}


def job(n_ranks: int) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    """A job for `n_ranks` ranks: what it returns on each is found, what it raises is the error."""

    def register(work: Callable[[Path], Any]) -> Callable[[Path], Any]:
        JOBS[f"{work.__name__}@{n_ranks}"] = n_ranks, work
        return work

    return register


def updates(monitor: list[tuple[int, str]]) -> None:
    """Note the step and the masks' digest at each update of whatever runs next."""
    check = Ranks.check_same

    def noting(self: Ranks, digest: Callable[[], str], otherwise: str) -> None:
        if "after the update at step" in otherwise:
            step = otherwise.split("at step ")[1].split(";")[0]
            monitor.append((int(step), digest()))
        check(self, digest, otherwise)

    Ranks.check_same = noting  # type: ignore[method-assign]


def run_to_the_end(folder: Path) -> Any:
    seen: list[tuple[int, str]] = []
    updates(seen)
    out = folder / f"whole{os.environ['WORLD_SIZE']}"
    result = prune(config(folder / "dense.pt", **SMALL), observer=Quiet(), out=out)
    return {"updates": seen, "digests": [r.digest for r in result.results],
            "accuracy": result.test_accuracy}  # fmt: skip


job(2)(run_to_the_end)
job(4)(run_to_the_end)


def killed(folder: Path) -> Any:
    """The last rank dies within step 9; the others must end by themselves."""
    world = int(os.environ["WORLD_SIZE"])
    out = folder / f"killed{world}"
    if int(os.environ["RANK"]) == world - 1:
        step_of = Pruner.after_step

        def dying(self: Pruner) -> None:
            step_of(self)
            if self.step == 9:
                os.kill(os.getpid(), signal.SIGKILL)

        Pruner.after_step = dying  # type: ignore[method-assign]
    prune(config(folder / "dense.pt", **SMALL), observer=Quiet(), out=out)


def resumed(folder: Path) -> Any:
    out = folder / f"killed{os.environ['WORLD_SIZE']}"
    began = saved_step(out)
    result = prune(config(folder / "dense.pt", **SMALL), observer=Quiet(), out=out)
    return {"began": began, "digests": [r.digest for r in result.results]}


for n in (2, 4):
    job(n)(killed)
    job(n)(resumed)


@job(2)
def signalled(folder: Path) -> Any:
    """Only rank 1 gets the signal; both stop after one step, saved once."""

    class Signalling(Quiet):
        def on_epoch(self, metrics: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    out = folder / "signalled"
    options = config(folder / "dense.pt", **{**SMALL, "save_every": 60.0})
    # the lead alone is observed
    prune(options, observer=Signalling(), out=out)


@job(2)
def after_the_signal(folder: Path) -> Any:
    saved = sorted(p.name for p in (folder / "signalled" / "resume").iterdir())
    result = prune(config(folder / "dense.pt", **SMALL), observer=Quiet(), out=folder / "signalled")
    return {"saved": saved, "digests": [r.digest for r in result.results]}


@job(2)
def begun(folder: Path) -> Any:
    killed_at = Quiet()
    killed_at.on_epoch = lambda *_: os._exit(3)  # type: ignore[method-assign]
    prune(config(folder / "dense.pt", **SMALL), observer=killed_at, out=folder / "begun")


@job(4)
def other_number(folder: Path) -> Any:
    """A run that two processes had begun."""
    prune(config(folder / "dense.pt", **SMALL), observer=Quiet(), out=folder / "begun")


def selection(folder: Path) -> Any:
    """The masks from fixed weights, and gradients whose average over the ranks is fixed."""
    with joined(CPU) as ranks:
        return selected(ranks)


def selected(ranks: Ranks) -> list[str]:
    model, grad = fixed()
    parallel = ranks.parallel(model)
    pruner = Pruner(parallel, FGGP(0.5), Cubic(0.75, steps=5, updates=5, end=5), optimizer=None)
    found = []
    for step in range(5):
        model.zero_grad()
        # each rank's own gradient is far from the average: ± its offset
        offset = 64.0 * (2 * ranks.rank - ranks.world + 1)
        (parallel(torch.ones(1, 1)) * (grad(step) + offset)).sum().backward()
        pruner.after_backward()
        pruner.after_step()
        found.append(pruner.masks.digest())
    return found


class Weights(nn.Module):
    """Its gradient is what its output is multiplied with."""

    def __init__(self, w: torch.Tensor) -> None:
        super().__init__()
        self.fc = nn.Linear(w.shape[1], w.shape[0], bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """w∘x for an x of one row, in exact sums, by a call of the layer."""
        return self.fc(x * torch.eye(self.fc.in_features)).T


def fixed() -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
    """Weights and gradients with many ties; small integers, whose sums are exact."""
    g = torch.Generator().manual_seed(5)
    w = torch.randint(1, 9, (50, 40), generator=g) / 8

    def grad(step: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(100 + step)
        return torch.randint(-9, 10, (50, 40), generator=g).float()

    return Weights(w), grad


for n in (2, 4):
    job(n)(selection)


def masks_of(make: Callable[[], Any], ranks: Ranks) -> list[str]:
    """The masks at the start and after each of five steps, by a method."""
    model, grad = fixed()
    parallel = ranks.parallel(model)
    pruner = Pruner(parallel, make(), optimizer=None)
    found = [pruner.masks.digest()]
    for step in range(5):
        model.zero_grad()
        offset = 64.0 * (2 * ranks.rank - ranks.world + 1)
        (parallel(torch.ones(1, 1)) * (grad(step) + offset)).sum().backward()
        pruner.after_backward()
        pruner.after_step()
        found.append(pruner.masks.digest())
    return found


def images(ranks: Ranks) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What `Weights` multiplies with, another number on each rank, and a label a row."""
    g = torch.Generator().manual_seed(9)
    return [(torch.full((1, 1), 1.0 + ranks.rank), torch.randint(0, 40, (50,), generator=g))]


def calibration(ranks: Ranks) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs whose moments are powers of 2; each rank alone would choose from other ones."""
    first = torch.tensor([1.0, 8.0]).repeat_interleave(20)[None]
    both = [(x, torch.zeros(1)) for x in (first, 4 * first.flip(1))]
    return both if ranks.world == 1 else [both[ranks.rank]]


def every_kind(ranks: Ranks) -> dict[str, Callable[[], Any]]:
    """Methods that choose from averaged gradients, at random, and at the start."""

    def moving(random: bool) -> Dynamic:
        g = torch.Generator().manual_seed(3)
        likely = (lambda state: by_chance(g, state)) if random else by_gradient
        exchanges = Exchanges(Cosine(0.5, 0.1, steps=5), updates=5)
        return Dynamic(0.75, exchanges, likely, allocation="erk", generator=g)

    cubic = Cubic(0.75, steps=5, updates=5, end=5)
    return {
        "granet": lambda: GraNet(cubic, Exchanges(Cosine(0.5, 0.1, steps=5), updates=5)),
        "rigl": lambda: moving(random=False),
        "set": lambda: moving(random=True),
        "mean-gradient": lambda: MeanGradient(0.5, 0.5, cubic),
        "greg-1": lambda: GrowingReg(
            0.75, Growth(every=1, growth=0.25, ceiling=1.0), window=5, hold=0
        ),
        "greg-2": lambda: GrowingReg(
            0.75,
            Growth(every=1, growth=0.5, ceiling=1.0, start=0.5),
            window=5,
            hold=0,
            together=Growth(every=1, growth=0.25, ceiling=0.5),
        ),
        "lottery": lambda: Lottery(Rounds(0.75, steps=5, share=0.5), Reinit("rewind")),
        "dpp": lambda: DPP(0.75, 5),
        "unification": lambda: Unification(Cubic(0.75, steps=5, updates=3, end=3)),
        "snip": lambda: SNIP(0.75, lambda: images(ranks)),
        "grasp": lambda: GraSP(0.75, lambda: images(ranks)),
        "synflow": lambda: SynFlow(0.75, (1,), rounds=5),
        "magnitude": lambda: LayerwiseOneShot(
            0.75, lambda: calibration(ranks), allocation="global"
        ),
        "wanda": lambda: LayerwiseOneShot(0.75, lambda: calibration(ranks), rule=wanda),
        "second-order": lambda: LayerwiseOneShot(
            0.75, lambda: calibration(ranks), rule=SecondOrder()
        ),
    }


@job(2)
def other_methods(folder: Path) -> Any:
    with joined(CPU) as ranks:
        return {name: masks_of(make, ranks) for name, make in every_kind(ranks).items()}


def with_synced_norms(ranks: Ranks) -> str:
    """GraSP's masks of a network whose batch norms are synced, as those on several GPUs are."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.SyncBatchNorm(8), nn.ReLU(), nn.Linear(8, 4))
    shares = [(torch.randn(10, 6), torch.randint(0, 4, (10,))) for _ in range(2)]
    mine = shares if ranks.world == 1 else [shares[ranks.rank]]
    return Pruner(net, GraSP(0.5, lambda: mine), optimizer=None).masks.digest()


@job(2)
def second_derivatives(folder: Path) -> Any:
    with joined(CPU) as ranks:
        return with_synced_norms(ranks)


@job(2)
def not_averaged(folder: Path) -> Any:
    """A loop that forgot to average its gradients."""
    with joined(CPU) as ranks:
        model, grad = fixed()
        pruner = Pruner(model, FGGP(0.5), Cubic(0.75, steps=4, updates=2), optimizer=None)
        for step in range(4):
            model.zero_grad()
            (model(torch.ones(1, 1)) * (grad(step) + 5 * ranks.rank)).sum().backward()
            pruner.after_backward()
            pruner.after_step()


@job(2)
def silent(folder: Path) -> Any:
    """One process lives but does not answer, until the other has given up."""
    given_up = folder / "given-up"
    with joined(CPU) as ranks:
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=0.5))
        if ranks.rank:
            while not given_up.exists():
                time.sleep(0.05)
            os._exit(0)
        try:
            ranks.gather("anybody?")
        finally:
            given_up.touch()


def shares(folder: Path) -> Any:
    """Sums over each image of one epoch's batches, and of the test's."""
    with joined(CPU) as ranks:
        s = prepare_pruning(config(folder / "dense.pt", **SMALL), ranks=ranks).session
        batches = s.batches(s.data.train)
        drawn = batches.shuffled(torch.Generator().manual_seed(3), s.augmentation)
        train = [x.double().sum((1, 2, 3)).tolist() for x, _ in drawn]
        test = [x.double().sum((1, 2, 3)).tolist() for x, _ in batches.in_order()]
        return {"train": train, "test": test}


for n in (2, 4):
    job(n)(shares)


@job(2)
def one_fails(folder: Path) -> Any:
    """Rank 1 alone cannot read its checkpoint."""
    path = folder / ("dense.pt" if os.environ["RANK"] == "0" else "nowhere.pt")
    prune(config(path, **SMALL), observer=Quiet(), out=folder / "one_fails")


@job(2)
def other_options(folder: Path) -> Any:
    lr = 0.1 if os.environ["RANK"] == "0" else 0.2
    prune(config(folder / "dense.pt", **SMALL, lr=lr), observer=Quiet(), out=folder / "other")


@job(2)
def program(folder: Path) -> Any:
    """`fggp-deploy prune`, well and with a mistake: what each rank says."""
    here = folder / f"says-{os.environ['RANK']}"
    here.mkdir()
    os.chdir(here)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["fggp-deploy", "prune", "--model", "tiny", "--data", "noise", "--checkpoint",
                str(folder / "dense.pt"), "--epochs", "1", "--batch-size", "16", "--target", "0.5",
                "--out", str(folder / "program"), "--json"]  # fmt: skip
    with contextlib.suppress(SystemExit):
        cli.run()
    sys.stdout.flush()
    sys.argv[-2:] = [str(folder / "other"), "--lr", "1e9"]
    cli.run()  # which ends the process


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def forked(n: int, work: Callable[[Path], Any], folder: Path) -> list[dict[str, Any]]:
    """Fork the ranks, wait for all of them to end; the store is ours, as it is torchrun's."""
    store, pids = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False), []
    # None connects before all are there: the store's thread, which answers, may hold a lock of the
    # C library, and a child that is forked then would wait for that lock for ever.
    wait, start = os.pipe()
    for rank in range(n):
        answer = folder / f"answer-{rank}.json"
        answer.unlink(missing_ok=True)
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        os.close(start)
        os.read(wait, 1)
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(n), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(n),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port),
            TORCHELASTIC_USE_AGENT_STORE="True",
        )  # fmt: skip
        code, reported = 0, {}
        try:
            reported = {"found": work(folder)}
        except Exception as e:
            code = getattr(e, "exit_code", 99)
            reported = {
                "error": f"{type(e).__name__}: {e}",
                "reported": getattr(e, "reported", False),
            }
            if code == 99:
                traceback.print_exc()
        answer.write_text(json.dumps(reported))
        os._exit(code)
    os.close(start)
    os.close(wait)
    ends = []
    for rank, pid in enumerate(pids):
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        path = folder / f"answer-{rank}.json"
        ends.append({"code": status, **(json.loads(path.read_text()) if path.exists() else {})})
    return ends


def main(folder: Path, jobs: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for module in ("torch.utils.tensorboard", "torch._dynamo"):
        importlib.import_module(module)  # so that no child has to
    killing.install()
    dense(folder / "dense.pt")
    ends = {}
    for name in jobs or JOBS:
        began = time.perf_counter()
        ends[name] = forked(*JOBS[name], folder)
        print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    print(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
