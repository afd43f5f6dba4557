"""What removing dead channels gives on real masks: channels, multiply-accumulates, bytes, latency.

    python benchmarks/bench_compaction.py MODEL [MODEL …]

A MODEL is a packed file of `fggp-deploy export`, of a pruned network, without --compact. One
thread, batch 1, ten fresh interleaved sessions of each; both networks stored dense on stock ONNX
Runtime, and packed on the sparse kernels. Writes benchmarks/results/compaction.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from fggp_deploy import runtime
from fggp_deploy.artifacts.provenance import machine, package_versions
from fggp_deploy.artifacts.sparse_model import SparseModel
from fggp_deploy.exporters.compacting import compacted
from fggp_deploy.onnx_ops import pack
from fggp_deploy.runtime.sessions import Options
from fggp_deploy.timing import Run
from fggp_deploy.verify.latency import at_setting
from fggp_deploy.verify.network import SESSION_CONFIG

RESULTS = Path(__file__).parent / "results" / "compaction.json"
PAIRS = (("dense, compact", "dense"), ("packed, compact", "packed"))


def measure(path: Path, seconds: float, folder: Path) -> dict[str, Any]:
    """Time one model whole and compacted, and count what went."""
    model = SparseModel.open(path)
    meta, dense = model.metadata, model.dense()
    x = np.random.default_rng(0).standard_normal(
        (1, *meta.preprocessing.input_shape), dtype=np.float32
    )
    feeds = {dense.graph.input[0].name: x}
    small, about = compacted(dense, feeds)
    opened: dict[str, Callable[[], ort.InferenceSession]] = {}
    for name, network in (("", dense), (", compact", small)):
        opened[f"dense{name}"] = partial(
            Options(1, SESSION_CONFIG).open, network.SerializeToString(), name=str(path)
        )
        file = folder / f"packed{name}.onnx"
        file.write_bytes(pack(network).SerializeToString())
        opened[f"packed{name}"] = partial(runtime.session, file, threads=1, config=SESSION_CONFIG)

    def opener(name: str) -> Callable[[int, int], Run]:
        return lambda threads, batch: partial(opened[name]().run, None, feeds)

    row: dict[str, Any] = {
        "file": path.name,
        "model": meta.model,
        "data": meta.data,
        "sparsity": meta.sparsity["n_removed"] / meta.sparsity["n_prunable"],
        "compaction": dataclasses.asdict(about),
        "seconds": seconds,
    }
    print(f"{meta.model}, {row['sparsity']:.1%}. {about.sentence()}", flush=True)
    for small_name, whole_name in PAIRS if about.n_removed else ():
        found = at_setting(
            {n: opener(n) for n in (whole_name, small_name)},
            1, 1, reference=whole_name, seconds=seconds, seed=0,
        )  # fmt: skip
        s = found.speedups[small_name]
        row[small_name] = dataclasses.asdict(s) | {
            "median_ms": {n: t.median_ms for n, t in found.timings.items()}
        }
        where = "stock ONNX Runtime" if whole_name == "dense" else "the kernels"
        print(f"  on {where}: {s.value:.2f} times [{s.low:.2f}, {s.high:.2f}]", flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each model and runtime")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    about = {"hardware": machine(), "versions": package_versions()}
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(path, args.seconds, Path(folder)) for path in args.models]
    args.output.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
