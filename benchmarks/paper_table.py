"""FGGP's table: CIFAR-10, VGG-19 and ResNet-50, from dense and 50%-sparse starts, cell by cell.

    python benchmarks/paper_table.py --runs FOLDER --data-dir DATA [--nets vgg19,resnet50]
        [--targets 0.98] [--starts dense,half] [--methods fggp,gmp] [--seeds 0] [--minutes 9]

A cell is one network that is pruned while it is trained from random weights with the recipe `paper`
(160 epochs, learning rate 0.1 that falls at half and three quarters, no teacher). `half` starts
from a random mask of 50%, by ERK. `--recipe best` prunes a network that was trained densely first
(a cell of its own with the method `dense`, which `--methods dense` also runs). The same command
resumes cells that --minutes or a signal interrupted, and does not repeat finished ones. `--parallel
N` runs N cells at a time. Other options are passed to every prune and train with `--options
"--precision bf16 --compile"`.

Accuracy is the last epoch's on the official 10,000 test images, trained on all 50,000 training
images: nothing is selected on the test set. `--protocol best-epoch` is the protocol of older tables
(45,000 images, the best epoch at the final sparsity on the test set itself).

`--plan` measures images per second and estimates the time. `--report` prints the table of the
finished cells and writes a plot. `--bring FOLDER` exports each finished cell there as a packed ONNX
file. Each finished cell is a line of FOLDER/results.jsonl.

On one GPU for half an hour, in this order (repeat each line until all runs are finished):

    G="--device cuda --precision bf16 --compile"
    python benchmarks/paper_table.py --runs R --data-dir D --options "$G" --minutes 9
        --nets vgg19 --targets 0.98 --methods fggp,gmp --parallel 2 --bring B
    … --nets vgg19 --targets 0.98 --recipe best
    … --nets resnet50 --targets 0.98
    … --nets vgg19 --targets 0.9,0.95 --starts dense,half --parallel 4
    … --nets vgg19 --targets 0.98 --seeds 0,1,2 --parallel 3
    … --nets vgg19 --targets 0.98 --rates 0.2,0.8 --parallel 2
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import cells

from fggp_deploy.checkpoints.provenance import machine, package_versions
from fggp_deploy.pruning import methods
from fggp_deploy.training.recipes import RECIPES

HERE = Path(__file__).parent
PROTOCOLS = {"last-epoch": "last_epoch", "best-epoch": "best_epoch"}
STARTS = {"dense": 0.0, "half": 0.5}
# Mean over seeds, of 45,000 training images, the best epoch chosen on the test set; of the papers'
# cells these were at hand.
PUBLISHED = {
    ("vgg19", "dense"): {0.0: 93.85},
    ("vgg19", "SNIP"): {0.9: 93.63, 0.95: 93.43, 0.98: 92.05},
    ("vgg19", "GraSP"): {0.9: 93.30, 0.95: 93.04, 0.98: 92.19},
    ("vgg19", "SynFlow"): {0.9: 93.35},
    ("vgg19", "RigL"): {0.9: 93.38},
    ("vgg19", "GMP"): {0.9: 93.59},
    ("vgg19", "GraNet"): {0.9: 93.80},
    ("resnet50", "dense"): {0.0: 94.75},
    ("resnet50", "SNIP"): {0.95: 90.86},
    ("resnet50", "GraSP"): {0.95: 91.32},
    ("resnet50", "SynFlow"): {0.95: 91.22},
    ("resnet50", "RigL"): {0.95: 93.86},
    ("resnet50", "GMP"): {0.95: 94.52},
    ("resnet50", "GraNet"): {0.95: 94.44},
}


@dataclass(frozen=True)
class Cell:
    """One run of the table; `dense` is a method that removes nothing."""

    net: str
    target: float
    start: str
    method: str
    rate: float
    recipe: str
    protocol: str
    seed: int

    @property
    def name(self) -> str:
        """The run's folder."""
        if self.method == "dense":
            return f"{self.net}-dense-{self.protocol}-seed{self.seed}"
        rate = f"-r{self.rate:g}" if self.rate != 0.5 else ""
        return (
            f"{self.net}-{self.start}-{self.method}{rate}-{self.target:g}-{self.recipe}-"
            f"{self.protocol}-seed{self.seed}"
        )


def wanted(args: argparse.Namespace) -> Iterator[Cell]:
    """The cells that the options select, in their order; `best` comes after its dense start."""
    seen = set()
    grid = product(args.seeds, args.nets, args.targets, args.starts, args.methods, args.rates)
    for seed, net, target, start, method, rate in grid:
        if not reads_rate(method):
            rate = 0.5
        cell = Cell(net, target, start, method, rate, args.recipe, args.protocol, seed)
        before = [dense(cell)] if args.recipe == "best" else []
        for c in [*before, dense(cell) if method == "dense" else cell]:
            if c.name not in seen:
                seen.add(c.name)
                yield c


def reads_rate(method: str) -> bool:
    """Whether a method uses --rate; the program refuses it for others."""
    return method != "dense" and "rate" in methods.info(method).reads


def dense(cell: Cell) -> Cell:
    """The dense network that `cell` is compared with."""
    return Cell(cell.net, 0.0, "dense", "dense", 0.5, "paper", cell.protocol, cell.seed)


def command(cell: Cell, args: argparse.Namespace) -> list[str]:
    """The arguments of the program; writes the random start if the cell needs one."""
    where = f"{HERE / 'cifar_protocols.py'}:{PROTOCOLS[cell.protocol]}"
    common = ["--model", cell.net, "--data", where, "--trust-code", "--seed", str(cell.seed)]
    common += shlex.split(args.options)
    if cell.method == "dense":
        shape = ["--lr", "0.1", "--lr-schedule", "step", "--warmup-epochs", "0"]
        shape += ["--weight-decay", "5e-4", "--batch-size", "128"]
        return ["train", "--epochs", str(args.epochs or 160), *shape, *common]
    start = args.runs / dense(cell).name
    if cell.recipe != "best":
        start = untrained(cell, args.runs)
    epochs = ["--epochs", str(args.epochs)] if args.epochs else []
    rate = ["--rate", str(cell.rate)] if reads_rate(cell.method) else []
    return [
        "prune", "--recipe", cell.recipe, *epochs, "--checkpoint", str(start),
        "--target", str(cell.target), "--method", cell.method, *rate, *common,
    ]  # fmt: skip


def untrained(cell: Cell, runs: Path) -> Path:
    """A file of a network with random weights, with random ERK masks for a `half` start."""
    path = runs / f"{cell.net}-untrained-{cell.start}-seed{cell.seed}.safetensors"
    if path.exists():
        return path
    import torch

    from fggp_deploy import models
    from fggp_deploy.checkpoints.checkpoint import CheckpointInfo
    from fggp_deploy.data.cifar import PREPROCESSING
    from fggp_deploy.data.cifar_classes import CIFAR10_CLASSES
    from fggp_deploy.models.checkpointing import to_checkpoint
    from fggp_deploy.pruning.allocation import ALLOCATIONS
    from fggp_deploy.pruning.masks import MaskSet, random_masks
    from fggp_deploy.pruning.pruner import prunable_parameters

    torch.manual_seed(cell.seed)
    model = models.build(cell.net, num_classes=10, in_channels=3)
    params = prunable_parameters(model)
    masks = MaskSet({})
    if sparsity := STARTS[cell.start]:
        keep = ALLOCATIONS["erk"]({n: tuple(p.shape) for n, p in params.items()}, sparsity)
        masks = random_masks(params, keep, generator=torch.Generator().manual_seed(cell.seed))
        with torch.no_grad():
            for n, m in masks.items():
                params[n].mul_(m)
    info = CheckpointInfo(
        model=cell.net, data="cifar10", classes=CIFAR10_CLASSES, preprocessing=PREPROCESSING,
        prunable=tuple(params),
    )  # fmt: skip
    to_checkpoint(model, masks, info).save(path)
    return path


def environment(args: argparse.Namespace) -> dict[str, str]:
    """The environment variables that the data functions read."""
    found = {"FGGP_DATA_DIR": str(args.data_dir.resolve())}
    return found | ({"FGGP_PAPER_IMAGES": str(args.images)} if args.images else {})


def keep(cell: Cell, args: argparse.Namespace) -> None:
    """Write a finished cell's line, and its packed file if requested."""
    found = cells.figures(args.runs, cell.name)
    epochs = found.pop("epochs")
    if cell.protocol == "best-epoch":  # `val` is the test set there
        final = epochs[-1]["sparsity"]
        found["accuracy"] = max(e["val_accuracy"] for e in epochs if e["sparsity"] == final)
    row = {
        **asdict(cell),
        **found,
        "epochs": len(epochs),
        "options": args.options,
        "images": args.images,
        "hardware": machine(),
        "versions": package_versions(),
    }
    with (args.runs / "results.jsonl").open("a") as f:
        f.write(json.dumps(row) + "\n")
    print(f"{cell.name}: {row['accuracy']:.2%} in {row['seconds']:.0f} s", file=sys.stderr)
    if args.bring and cell.method != "dense":
        words = [*cells.PROGRAM, "export", str(args.runs / cell.name), "--json"]
        exported = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        args.bring.mkdir(parents=True, exist_ok=True)
        shutil.copy(exported["path"], args.bring / f"{cell.name}.onnx")
        shutil.copy(args.runs / "results.jsonl", args.bring)


def plan(todo: Sequence[Cell], args: argparse.Namespace) -> None:
    """Print how long the missing cells would take, one after the other."""
    sum_s = 0.0
    for cell in todo:
        finished = cells.done(args.runs, cell.name)
        if finished or cell.method == "dense" or cell.recipe == "best":
            print(f"{cell.name}: {'done' if finished else 'not timed'}")
            continue
        words = [*cells.PROGRAM, *command(cell, args), "--dry-run", "--json"]
        env = {**os.environ, **environment(args)}
        estimate = json.loads(
            subprocess.run(words, env=env, check=True, capture_output=True).stdout
        )
        sum_s += estimate["seconds"]
        fits = "" if not args.minutes else ", fits" if sum_s < 60 * args.minutes else ", too much"
        print(
            f"{cell.name}: {estimate['images_per_second']:.0f} images/s, "
            f"{estimate['seconds']:.0f} s, {sum_s:.0f} s with those before{fits}"
        )


def report(rows: Sequence[dict[str, Any]], plot: Path | None) -> str:
    """The table in Markdown: mean ± sample standard deviation over seeds, rank among methods."""
    targets = sorted({r["target"] for r in rows if r["method"] != "dense"})
    lines = [
        "| network | start | method | "
        + " | ".join(f"{t:.0%}" for t in targets)
        + " | mean rank |",
        "|---|---|---|" + "---|" * (len(targets) + 1),
    ]
    found: dict[tuple[str, ...], dict[float, list[float]]] = {}
    for r in rows:
        rate = f", r = {r['rate']:g}" if r["rate"] != 0.5 else ""
        short = f", {r['epochs']} epochs" if r["epochs"] not in (160, 80) else ""
        part = f", {r['images']:,} images" if r["images"] else ""
        way = f"{r['recipe']}, {r['protocol']}{short}{part}"
        group = (r["net"], r["start"], way, f"{r['method']}{rate}")
        found.setdefault(group, {}).setdefault(r["target"], []).append(100 * r["accuracy"])
    for (net, start, way, method), by_target in found.items():
        rivals = [
            v for (*setting, _), v in found.items()
            if setting == [net, start, way] and set(v) & set(targets)
        ]  # fmt: skip
        ranks = [
            1 + sum(statistics.mean(o[t]) > statistics.mean(v) for o in rivals if t in o)
            for t, v in by_target.items()
            if t in targets
        ]
        shown = [cells.mean_text(by_target.get(t, by_target.get(0.0, []))) for t in targets]
        rank = f"{statistics.mean(ranks):.1f} of {len(rivals)}" if ranks else "–"
        lines.append(f"| {net} | {start} | {method}, {way} | {' | '.join(shown)} | {rank} |")
    nets = {r["net"] for r in rows}
    for (net, way), values in PUBLISHED.items():
        if net not in nets:
            continue
        shown = [f"{values[t]:.2f}" if t in values else "–" for t in targets]
        if 0.0 in values:
            shown = [f"{values[0.0]:.2f}"] * len(targets)
        lines.append(f"| {net} | dense | {way}, published, best-epoch | {' | '.join(shown)} | – |")
    if plot is not None:
        _plot(found, plot)
    return "\n".join(lines)


def _plot(found: dict[tuple[str, ...], dict[float, list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for (net, start, way, method), by_target in found.items():
        if points := sorted((t, v) for t, v in by_target.items() if t):
            axes.errorbar(
                [100 * t for t, _ in points],
                [statistics.mean(v) for _, v in points],
                yerr=[statistics.stdev(v) if len(v) > 1 else 0 for _, v in points],
                marker="o", capsize=3, label=f"{net}, {start} start, {method}, {way}",
            )  # fmt: skip
    axes.set(xlabel="removed, %", ylabel="top-1 on CIFAR-10, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[float]:
        return [float(t) for t in text.split(",")]

    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--nets", type=words, default=["vgg19", "resnet50"])
    parser.add_argument("--targets", type=numbers, default=[0.98])
    parser.add_argument("--starts", type=words, default=["dense"])
    parser.add_argument("--methods", type=words, default=["fggp", "gmp"])
    parser.add_argument("--rates", type=numbers, default=[0.5])
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[0])
    parser.add_argument("--recipe", default="paper", choices=RECIPES)
    parser.add_argument("--protocol", default="last-epoch", choices=PROTOCOLS)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--images", type=int, help="use only that many training and test images")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument(
        "--minutes", type=float, help="stop after that many minutes, with all saved"
    )
    parser.add_argument("--options", default="", help="for prune and train, as one text")
    parser.add_argument("--bring", type=Path)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if unknown := set(args.starts) - set(STARTS):
        parser.error(f"--starts are {', '.join(STARTS)}, not {', '.join(unknown)}")
    results = args.runs / "results.jsonl"
    if args.report:
        if not results.exists():
            parser.error(f"{results} is not there; make some cells first")
        rows = [json.loads(line) for line in results.read_text().splitlines()]
        print(report(rows, args.runs / "table.svg"))
        return 0
    args.runs.mkdir(parents=True, exist_ok=True)
    todo = list(wanted(args))
    if args.plan:
        plan(todo, args)
        return 0
    by_name = {c.name: c for c in todo}
    complete = cells.make(
        [
            cells.Job(
                c.name, partial(command, c, args), dense(c).name if c.recipe == "best" else None
            )
            for c in todo
        ],
        args.runs,
        kept=lambda name: keep(by_name[name], args),
        parallel=args.parallel,
        minutes=args.minutes,
        environment=environment(args),
    )
    print("all runs are finished" if complete else "runs are missing; the same command resumes")
    return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
