"""The recipes against magnitude pruning with as many epochs: CIFAR-10, ResNet-20, 90%.

    python benchmarks/bench_recipes.py --checkpoint resnet20.th --data-dir DATA --runs FOLDER

`fast` is FGGP with the dense model's soft labels; `gmp` is magnitude pruning with the package's
defaults but no teacher; `gmp in fast` differs from `fast` only in the method. Three seeds each, one
for `best`. Finished runs in FOLDER are not repeated, and interrupted ones resume. Writes
results/cifar10_resnet20_90_recipes.json: test accuracy on the official 10,000 images, mean and
sample standard deviation. About six minutes per run on one core of an AMD EPYC (Zen 5).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from fggp_deploy.checkpoints.provenance import machine, package_versions

RESULTS = Path(__file__).parent / "results" / "cifar10_resnet20_90_recipes.json"
WAYS = {
    "fast": (["--recipe", "fast"], 3),
    "gmp": (["--method", "gmp", "--distill", "0"], 3),
    "gmp in fast": (["--recipe", "fast", "--method", "gmp"], 3),
    "best": (["--recipe", "best"], 1),
}
KEYS = ("recipe", "method", "epochs", "batch_size", "lr", "distill", "augment", "ema", "seed")


def one(folder: Path, options: list[str]) -> dict[str, Any]:
    """The result of a run, which is executed first if it is missing."""
    if not (folder / "summary.json").exists():
        command = [sys.executable, "-m", "fggp_deploy.cli", "prune", *options, "--out", str(folder)]
        subprocess.run(command, check=True)
    summary = json.loads((folder / "summary.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    found = {key: config[key] for key in KEYS}
    for key in ("test_accuracy", "parent_accuracy", "n_test", "n_removed", "digest"):
        found[key] = summary[key]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="a ResNet-20 trained on CIFAR-10")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    common = ["--model", "resnet20", "--checkpoint", args.checkpoint, "--target", "0.9"]
    common += ["--data", "cifar10", "--data-dir", args.data_dir, "--epochs", str(args.epochs)]
    common += ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    rows = []
    for way in args.ways:
        options, seeds = WAYS[way]
        runs = [
            one(
                args.runs / f"{way.replace(' ', '-')}-{seed}",
                [*common, *options, "--seed", str(seed)],
            )
            for seed in range(seeds)
        ]
        accuracies = [100 * run["test_accuracy"] for run in runs]
        row = {"way": way, "mean": round(statistics.mean(accuracies), 3), "runs": runs}
        if seeds > 1:
            row["std"] = round(statistics.stdev(accuracies), 3)
        rows.append(row)
        print(f"{way:12} {row['mean']:.2f} ± {row.get('std', float('nan')):.2f}  {accuracies}")
    about = {"hardware": machine(), "versions": package_versions()}
    RESULTS.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
