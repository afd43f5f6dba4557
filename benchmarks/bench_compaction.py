"""What removing dead channels gains on real masks: channels, multiply-accumulates, bytes, latency.

    python benchmarks/bench_compaction.py MODEL [MODEL …]

A MODEL is a packed file that `fggp-deploy export` wrote without --compact. One thread, batch 1, ten
fresh interleaved sessions of each. Both networks run stored dense on stock ONNX Runtime, and packed
on the sparse kernels. First, a chain of seven convolutions with 64 channels or fewer shows why
widths stay multiples of four. Writes benchmarks/results/compaction.json.
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
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fggp_deploy import runtime
from fggp_deploy.checkpoints.provenance import machine, package_versions
from fggp_deploy.common.timing import TimedCall
from fggp_deploy.exporters.compaction import compacted
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.packing import pack
from fggp_deploy.measure.latency import Sampling, at_setting
from fggp_deploy.measure.network import SESSION_CONFIG
from fggp_deploy.runtime.sessions import SessionConfig

RESULTS = Path(__file__).parent / "results" / "compaction.json"
WIDTHS = (64, 63, 60, 56, 52, 48)
PAIRS = (("dense, compact", "dense"), ("packed, compact", "packed"))


def measure(path: Path, seconds: float, folder: Path) -> dict[str, Any]:
    """Time one model before and after compaction, and count what was removed."""
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
            SessionConfig(1, SESSION_CONFIG).open, network.SerializeToString(), name=str(path)
        )
        file = folder / f"packed{name}.onnx"
        file.write_bytes(pack(network).SerializeToString())
        opened[f"packed{name}"] = partial(runtime.session, file, threads=1, config=SESSION_CONFIG)

    def opener(name: str) -> Callable[[int, int], TimedCall]:
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
            1, 1, reference=whole_name, sampling=Sampling(seconds),
        )  # fmt: skip
        s = found.speedups[small_name]
        row[small_name] = dataclasses.asdict(s) | {
            "median_ms": {n: t.median_ms for n, t in found.timings.items()}
        }
        where = "stock ONNX Runtime" if whole_name == "dense" else "the kernels"
        print(f"  on {where}: {s.value:.2f} times [{s.low:.2f}, {s.high:.2f}]", flush=True)
    return row


def chain(width: int) -> ModelProto:
    """Seven 3x3 convolutions with ReLU, all `width` channels wide but for input and output."""
    rng = np.random.default_rng(0)
    nodes, tensors, x, before = [], [], "x", 16
    for i in range(7):
        w = rng.standard_normal((width, before, 3, 3), dtype=np.float32) / (3 * before**0.5)
        tensors.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [x := f"r{i}"]))
        before = width
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n, 16, 16])]
        for name, n in (("x", 16), (x, width))
    ]
    graph = helper.make_graph(nodes, "chain", *ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def widths(seconds: float) -> dict[str, Any]:
    """Time of chains with fewer than 64 channels on stock ONNX Runtime, over one with 64."""
    x = np.random.default_rng(1).standard_normal((1, 16, 16, 16), dtype=np.float32)

    def opener(width: int) -> Callable[[int, int], TimedCall]:
        model = chain(width).SerializeToString()
        session = partial(SessionConfig(1, SESSION_CONFIG).open, model, name=f"{width} channels")
        return lambda threads, batch: partial(session().run, None, {"x": x})

    found = at_setting(
        {str(n): opener(n) for n in WIDTHS}, 1, 1, reference="64", sampling=Sampling(seconds)
    )
    ratios = {n: 1 / s.value for n, s in found.speedups.items()}
    for n, ratio in ratios.items():
        print(f"{n} channels: {ratio:.2f} times as long as 64", flush=True)
    return {"seconds": seconds, "time_over_64": ratios}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each model and runtime")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    about = {"hardware": machine(), "versions": package_versions()}
    with tempfile.TemporaryDirectory() as folder:
        narrow = widths(args.seconds)
        rows = [measure(path, args.seconds, Path(folder)) for path in args.models]
    args.output.write_text(json.dumps(about | {"widths": narrow, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
