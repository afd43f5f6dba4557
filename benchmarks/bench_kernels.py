"""Ratio of dense fp32 ONNX Runtime to `runtime.session`, on random masks.

    python benchmarks/bench_kernels.py [--networks vgg19-32,…] [--masks erk,uniform]
        [--sparsities 0.9,0.95,0.98] [--threads 1] [--batch 1] [--seconds 5] [--untuned]

Both sessions run in one process with the same options, one after the other, pair by pair; a
figure is the median of the pairs' ratios with its 95% interval by order statistics. Models are
tuned first (what a cached plan has), or with --untuned left to the cost model. Writes
benchmarks/results/kernels-<isa>.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from networks import NETWORKS, set_densities, to_onnx

from fggp_deploy import kernels, runtime
from fggp_deploy.artifacts.provenance import machine
from fggp_deploy.onnx_ops import pack
from fggp_deploy.runtime.plan import interleaved

RESULTS = Path(__file__).parent / "results"
TOLERANCE = 1e-5


def measure(
    network: str,
    mask: str,
    sparsity: float,
    *,
    threads: int,
    batch: int,
    seconds: float,
    bare: bool,
    tuned: bool,
) -> dict[str, Any]:
    net = NETWORKS[network]()
    set_densities(net, sparsity, mask)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model = to_onnx(net, batch=batch)
        onnx.save(model, path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        start = time.perf_counter()
        if bare:
            sparse = bare_session(model, threads)
        else:
            sparse = runtime.session(path, threads=threads, cache=False, measure=tuned)
        opened = time.perf_counter() - start
        dense = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((batch, 3, net.size, net.size))
    feeds = {"x": x.astype(np.float32)}
    (want,), (got,) = dense.run(None, feeds), sparse.run(None, feeds)
    error = float(np.abs(got - want).max() / np.abs(want).max())
    if error > TOLERANCE:
        raise SystemExit(f"{network} {mask} {sparsity}: outputs differ by {error:.1e} relative")
    ratios = np.sort(
        interleaved(
            lambda: dense.run(None, feeds),
            lambda: sparse.run(None, feeds),
            pairs=400,
            seconds=seconds,
        )
    )
    half = 0.98 * math.sqrt(len(ratios))
    low = max(0, math.floor(len(ratios) / 2 - half))
    high = math.ceil(len(ratios) / 2 + half)
    return {
        "network": network,
        "mask": mask,
        "sparsity": sparsity,
        "threads": threads,
        "batch": batch,
        "ratio": round(float(np.median(ratios)), 3),
        "interval": [round(float(ratios[i]), 3) for i in (low, min(high, len(ratios) - 1))],
        "pairs": len(ratios),
        "relative_error": error,
        "first_open_seconds": round(opened, 1),
        "plan_chose_sparse": runtime.uses_kernels(sparse),
    }


def bare_session(model: onnx.ModelProto, threads: int) -> ort.InferenceSession:
    """The packed file with only the library registered: each layer changes layout twice."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(kernels.library_path()))
    packed = pack(model).SerializeToString()
    return ort.InferenceSession(packed, options, providers=["CPUExecutionProvider"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--masks", default="erk,uniform")
    parser.add_argument("--sparsities", default="0.9,0.95,0.98")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--bare", action="store_true", help="no regions: the library alone")
    parser.add_argument("--untuned", action="store_true", help="the cost model alone")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = []
    for network in args.networks.split(","):
        for mask in args.masks.split(","):
            for sparsity in map(float, args.sparsities.split(",")):
                row = measure(
                    network,
                    mask,
                    sparsity,
                    threads=args.threads,
                    batch=args.batch,
                    seconds=args.seconds,
                    bare=args.bare,
                    tuned=not args.untuned,
                )
                rows.append(row)
                print(
                    f"{network:13} {mask:8} {sparsity:.2f}  {row['ratio']:6.2f}x  "
                    f"[{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]  n={row['pairs']}",
                    flush=True,
                )
    report = {
        "cpu": machine()["cpu"],
        "isa": os.environ.get("FGGP_ISA") or kernels.status().isa,
        "onnxruntime": ort.__version__,
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "command": " ".join(["python", "benchmarks/bench_kernels.py", *sys.argv[1:]]),
        "rows": rows,
    }
    output = args.output or RESULTS / f"kernels-{report['isa']}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
