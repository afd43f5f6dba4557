"""Pruning without training: magnitude, Wanda, second order, each with and without the refit.

    python benchmarks/bench_one_shot.py --runs FOLDER --checkpoint resnet20.th --data-dir DATA

CIFAR-10 and a ResNet-20 that was trained elsewhere; 512 calibration images, new batch-norm
statistics each time. Finished runs are not repeated. Writes
benchmarks/results/one_shot_resnet20.json and prints the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from itertools import product
from pathlib import Path

import cells

from fggp_deploy.checkpoints.provenance import machine, package_versions

RESULTS = Path(__file__).parent / "results" / "one_shot_resnet20.json"
METHODS = ("magnitude", "wanda", "second-order")
TARGETS = (0.5, 0.7)
REFIT = {"masks alone": "0", "re-fit": "0.01"}  # the penalty's weight


def name_of(method: str, target: float, how: str) -> str:
    """A run's folder."""
    return f"{method}-{target:g}-{how.replace(' ', '-')}"


def command(method: str, target: float, how: str, args: argparse.Namespace) -> list[str]:
    """The arguments of the program."""
    return [
        "prune", "--model", "resnet20", "--checkpoint", str(args.checkpoint), "--data", "cifar10",
        "--data-dir", str(args.data_dir), "--mean", "0.485,0.456,0.406",
        "--std", "0.229,0.224,0.225", "--epochs", "0", "--method", method,
        "--target", str(target), "--method-set", f"ridge={REFIT[how]}",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    args = parser.parse_args()
    keys = list(product(METHODS, TARGETS, REFIT))
    runs = [cells.Job(name_of(*key), partial(command, *key, args)) for key in keys]
    if not cells.make(runs, args.runs, kept=lambda name: print(name, "done", file=sys.stderr)):
        return 1
    rows = []
    for method, target, how in keys:
        found = json.loads((args.runs / name_of(method, target, how) / "summary.json").read_text())
        rows.append(
            {
                "method": method,
                "target": target,
                "how": how,
                "accuracy": found["test_accuracy"],
                "dense": found["parent_accuracy"],
                "n_test": found["n_test"],
                "n_removed": found["n_removed"],
                "seconds": found["seconds"],
            }
        )
    about = {"hardware": machine(), "versions": package_versions()}
    RESULTS.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    columns = list(product(TARGETS, REFIT))
    print(f"dense {rows[0]['dense']:.2%}, n = {rows[0]['n_test']:,}")
    print("| | " + " | ".join(f"{t:.0%}, {how}" for t, how in columns) + " |")
    print("|---|" + "---|" * len(columns))
    accuracy = {(r["method"], r["target"], r["how"]): r["accuracy"] for r in rows}
    for method in METHODS:
        shown = [f"{accuracy[method, t, how]:.2%}" for t, how in columns]
        print(f"| {method} | {' | '.join(shown)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
