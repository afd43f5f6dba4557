"""A/A test: time a file against itself, as `verify` times a file against the dense model.

    python benchmarks/bench_aa.py MODEL.onnx [--runs 60] [--seconds 1] [--threads 1]

Nothing differs, so the 95% interval of the ratio should exclude 1 in about 5% of the runs. Writes
the ratios, and how many runs claimed a difference, to benchmarks/results/aa.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.common.files import sha256_file, write_atomic
from fggp_deploy.format.model import SparseModel
from fggp_deploy.measure.latency import TimedCall, measure, speedup
from fggp_deploy.measure.machine import machine, watching_load
from fggp_deploy.measure.network import load
from fggp_deploy.measure.statistics import proportion

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=1.0, help="as verify's, for each run")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    started, state = datetime.now(UTC), machine()
    packed = SparseModel.open(args.model)
    content, shape = packed.runnable(), packed.metadata.images.input_shape
    x = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)

    def opened() -> TimedCall:
        return load(args.model.name, content, threads=args.threads).runner(x)

    found = []
    with watching_load() as busy:
        for seed in range(args.runs):
            rng = np.random.default_rng(seed)
            samples = measure({"a": opened, "b": opened}, seconds=args.seconds, rng=rng)
            ratio = speedup(samples["a"], samples["b"], rng)
            found.append(asdict(ratio) | {"claimed": ratio.measured})
            print(
                f"{seed + 1:3d} {time.strftime('%X')} {ratio.value:.4f} "
                f"[{ratio.low:.4f}, {ratio.high:.4f}]{' claimed' if ratio.measured else ''}",
                file=sys.stderr,
            )
    claims = proportion(sum(f["claimed"] for f in found), len(found))
    result = {
        "claimed": asdict(claims),
        "widest_ratio": max(abs(f["value"] - 1) for f in found),
        "model_sha256": sha256_file(args.model),
        "runs": found,
        "load": asdict(busy),
        "machine": asdict(state),
        "provenance": Provenance.of(vars(args) | {"model": args.model.name}, started).to_dict(),
    }
    result["provenance"]["command"] = "python benchmarks/bench_aa.py " + args.model.name
    write_atomic(RESULTS / "aa.json", json.dumps(result, indent=1) + "\n")
    print(f"claimed a difference in {claims.k} of {claims.n} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
