"""The speed table for real masks: `fggp-deploy bench` on pruned checkpoints.

    python benchmarks/bench_masks.py --data-dir DATA RUN [RUN …]

A RUN is a folder of `fggp-deploy prune` and `export` (or a model.onnx). One thread, batch 1, with
dense int8, ten fresh interleaved sessions. Writes benchmarks/results/kernels-masks.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fggp_deploy.analysis.bench.benchmark import bench
from fggp_deploy.analysis.bench.options import BenchOptions
from fggp_deploy.format.model import SparseModel

RESULTS = Path(__file__).parent / "results" / "kernels-masks.json"


def measure(path: Path, data_dir: Path | None, seconds: float) -> dict[str, Any]:
    report = bench(path, BenchOptions(data_dir=data_dir, seconds=seconds))
    model = SparseModel.open(path)
    meta = model.metadata
    removed, prunable = meta.sparsity.get("n_removed", 0), meta.sparsity.get("n_prunable", 1)
    print(f"{meta.model} on {meta.data}, {removed / prunable:.2%} of prunable weights removed")
    for rival in report.rivals:
        cells = [c for c in report.cells if c.contender == rival.name]
        top1 = f"top-1 {rival.scored.top1.value:.1%}" if rival.scored else ""
        for c in cells:
            s = c.speedup
            words = f"{s.value:.2f} [{s.low:.2f}, {s.high:.2f}]" if s else "1"
            note = "" if s is None or s.measured else " no difference"
            print(f"  {rival.name:8} {c.timing.median_ms:7.3f} ms  {words}{note}  {top1}")
    print(f"  {report.plans[0].plan}", flush=True)
    return {"model": meta.model, "data": meta.data, "sparsity": meta.sparsity} | report.to_dict()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    paths = [run / "model.onnx" if run.is_dir() else run for run in args.runs]
    rows = [measure(path, args.data_dir, args.seconds) for path in paths]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
