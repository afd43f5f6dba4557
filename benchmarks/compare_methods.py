"""Compare pruning methods, each trained from random weights for the same number of epochs.

    python benchmarks/compare_methods.py --runs FOLDER [--methods fggp,gmp,…] [--targets 0.9,0.98]
        [--seeds 0,1,2] [--epochs 10] [--minutes M] [--parallel N] [--report]

All methods use the package's own network and data and one recipe. There is no teacher, so that
methods without a trained network are not at a disadvantage. Dense training for as many epochs is a
row as well. A method that needs a trained network spends two fifths of its epochs on dense training
first. The options of each method are its defaults. Finished runs are not repeated, and an
interrupted run resumes. With --cifar10 DATA, the network is ResNet-20 and the data CIFAR-10.
`--report` prints the table of the finished runs, best mean first, and writes it with a plot to
benchmarks/results.

If a method cannot reach a target because a layer would lose every weight, its cell is "n/a", and
the JSON gives the reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import cells
from scipy.stats import sem, t

from fggp_deploy.checkpoints.provenance import machine, package_versions
from fggp_deploy.pruning import methods

RESULTS = Path(__file__).parent / "results"
DENSE = "dense"
RECIPE = ["--lr", "0.05", "--lr-schedule", "cosine", "--warmup-epochs", "1", "--batch-size", "64"]


def name_of(method: str, target: float, seed: int) -> str:
    """A run's folder."""
    return f"{method}-{target:g}-seed{seed}" if method != DENSE else f"{DENSE}-seed{seed}"


def trained_first(method: str) -> bool:
    """Whether it cannot start from random weights."""
    return method != DENSE and "random" not in methods.info(method).starts


def parent_of(seed: int, epochs: int) -> str:
    """The folder of the dense network that such a method starts from."""
    return f"{DENSE}-{round(0.4 * epochs)}-seed{seed}"


def command(method: str, target: float, seed: int, args: argparse.Namespace) -> list[str]:
    """The arguments of the program; target 0 is the dense network of `parent_of`."""
    n_first = round(0.4 * args.epochs)
    epochs = args.epochs - n_first if trained_first(method) else args.epochs if target else n_first
    common = [*RECIPE, "--epochs", str(epochs), "--seed", str(seed)]
    model = "resnet10s2"
    if args.cifar10:
        model = "resnet20"
        common += ["--data", "cifar10", "--data-dir", str(args.cifar10)]
    if method == DENSE:
        return ["train", "--model", model, *common]
    start = ["--start", "random"]
    if trained_first(method):
        parent = args.runs / parent_of(seed, args.epochs) / "dense.safetensors"
        start = ["--checkpoint", str(parent)]
    return [
        "prune", "--model", model, "--method", method, "--target", str(target),
        *start, "--distill", "0", *common,
    ]  # fmt: skip


def table(args: argparse.Namespace) -> dict[str, Any]:
    """One row per method and target, with the accuracy of every seed in percent."""
    rows = []
    for method, target in product([DENSE, *args.methods], args.targets):
        if method == DENSE and target != args.targets[0]:
            continue
        made, refused = [], ""
        for seed in args.seeds:
            name = name_of(method, target, seed)
            log = args.runs / f"{name}.log"
            if cells.done(args.runs, name):
                found = cells.figures(args.runs, name)
                found["epochs"] = len(found["epochs"])
                made.append({"seed": seed, **found})
            elif log.exists() and "would remove every weight of" in log.read_text():
                refused = log.read_text().strip().splitlines()[-1]
        rows.append(
            {
                "method": method,
                "target": 0.0 if method == DENSE else target,
                "accuracy": [round(100 * run["accuracy"], 2) for run in made],
                "runs": made,
                "not_reached": refused,
            }
        )
    about = {"hardware": machine(), "versions": package_versions(), "epochs": args.epochs}
    return about | {"network": "resnet20" if args.cifar10 else "resnet10s2", "rows": rows}


def with_interval(values: Sequence[float]) -> str:
    """Mean [95% t interval] (count)."""
    if len(values) < 2:
        return f"{values[0]:.2f} (1)" if values else "–"
    low, high = t.interval(0.95, len(values) - 1, statistics.mean(values), sem(values))
    return f"{statistics.mean(values):.2f} [{low:.2f}, {high:.2f}] ({len(values)})"


def rows_at(found: dict[str, Any], target: float) -> list[dict[str, Any]]:
    """The methods' rows of one target."""
    return [r for r in found["rows"] if r["target"] == target]


def markdown(found: dict[str, Any], targets: list[float]) -> str:
    """Methods by their mean over the targets for which all have runs, the best first."""
    by_method: dict[str, dict[float, Any]] = {}
    for row in found["rows"]:
        by_method.setdefault(row["method"], {})[row["target"]] = row

    complete = [
        t for t in targets if all(r["accuracy"] or r["not_reached"] for r in rows_at(found, t))
    ]

    def mean(method: str) -> float:
        rows = [r for t, r in by_method[method].items() if t in (0.0, *complete)]
        means = [statistics.mean(r["accuracy"]) for r in rows if r["accuracy"]]
        return statistics.mean(means) if means else 0.0

    lines = ["| method | " + " | ".join(f"{x:.0%}" for x in targets) + " |"]
    lines.append("|---|" + "---|" * len(targets))
    for method in sorted(by_method, key=mean, reverse=True):
        shown = []
        for target in targets:
            row = by_method[method].get(0.0 if method == DENSE else target)
            given = row["accuracy"] if row else []
            shown.append("n/a" if row and row["not_reached"] else with_interval(given))
        lines.append(f"| {method} | {' | '.join(shown)} |")
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    """Each run a dot, each mean a line, methods side by side."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = [r for r in found["rows"] if r["accuracy"]]
    figure, axes = pyplot.subplots(figsize=(8, 0.35 * len(rows) + 1), layout="constrained")
    for i, row in enumerate(rows):
        axes.plot(row["accuracy"], [i] * len(row["accuracy"]), "o", color="#0b62c4", alpha=0.6)
        axes.plot([statistics.mean(row["accuracy"])], [i], "|", color="black", markersize=14)
    names = [r["method"] + (f", {r['target']:.0%}" if r["target"] else "") for r in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlabel("top-1 on the test images, %; one dot per seed")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument(
        "--methods", type=lambda text: text.split(","),
        default=["fggp", "gmp", "granet", "rigl", "snip", "synflow", "greg-1", "dpp"],
    )  # fmt: skip
    parser.add_argument(
        "--targets", type=lambda text: [float(s) for s in text.split(",")], default=[0.9, 0.98]
    )
    parser.add_argument(
        "--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0, 1, 2]
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cifar10", type=Path, metavar="DATA")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    for method in args.methods:
        methods.info(method)
    if args.report:
        found = table(args)
        stem = f"methods_{found['network']}"
        (RESULTS / f"{stem}.json").write_text(json.dumps(found, indent=1) + "\n")
        plot(found, RESULTS / f"{stem}.svg")
        print(markdown(found, args.targets))
        return 0
    runs = {}
    for seed, target, method in product(args.seeds, args.targets, [DENSE, *args.methods]):
        name = name_of(method, target, seed)
        after = None
        if trained_first(method):
            after = parent_of(seed, args.epochs)
            runs[after] = cells.Job(after, partial(command, DENSE, 0.0, seed, args))
        runs[name] = cells.Job(name, partial(command, method, target, seed, args), after)

    def report(name: str) -> None:
        found = cells.figures(args.runs, name)
        print(f"{name}: {found['accuracy']:.2%} in {found['seconds']:.0f} s", file=sys.stderr)

    complete = cells.make(
        list(runs.values()), args.runs, kept=report, parallel=args.parallel, minutes=args.minutes
    )
    print("all runs are finished" if complete else "runs are missing; the same command resumes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
