"""The int8 kernels against the fp32 kernels, dense int8 ONNX Runtime and OpenVINO, in one table.

    python benchmarks/bench_bytes.py [--quick] [--networks vgg19-32,…] [--output FILE]

VGG-19 and ResNet-50 at 32 and 224, random masks at 90, 95 and 98%, one thread, batch 1. Contenders,
all compared with dense fp32 ONNX Runtime:

int8          dense int8 ONNX Runtime: its own static quantization, QDQ, weights per channel
openvino      dense fp32 OpenVINO, if it is installed; openvino-int8 runs the file of `int8` there
floats        our fp32 kernels, zeros anywhere
floats-1x4    the same, zeros in blocks of four input channels
bytes         int8 weights and int8 activations (`export --activations int8`), zeros anywhere
bytes-1x4     the same, zeros in blocks of four input channels

Runs are interleaved, each contender in ten fresh sessions. A figure is the median of the sessions'
ratios of medians, with its 95% bootstrap interval over the sessions. `error` is the largest
difference between the int8 network on the kernels and on ONNX Runtime without its optimizers,
divided by the largest output.
Writes benchmarks/results/bytes.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from networks import NETWORKS, set_densities, to_onnx
from rivals import rivals, versions
from rows import RESULTS, load, median_ms, ratio, words

from fggp_deploy import runtime
from fggp_deploy.checkpoints.provenance import machine, package_versions
from fggp_deploy.format.packing import Packing
from fggp_deploy.kernels import chosen_isa
from fggp_deploy.measure.latency import N_SESSIONS, measure
from fggp_deploy.measure.network import SESSION_CONFIG
from fggp_deploy.quantization.activations import quantize_activations
from fggp_deploy.quantization.dense_baseline import quantize_on
from fggp_deploy.runtime.sessions import SessionConfig

PLANNED_SECONDS = 6.0
BIG = ("vgg19-32", "resnet50-32", "resnet50-224")


def contenders(
    folder: Path, network: str, mask: str, sparsity: float
) -> tuple[Any, dict[str, Any]]:
    """The input, and what opens each contender."""
    net = NETWORKS[network]()
    set_densities(net, sparsity, mask)
    x = np.random.default_rng(1).standard_normal((1, 3, net.size, net.size), dtype=np.float32)
    sparse = to_onnx(net, batch="n")
    dense_path, int8_path = folder / "dense.onnx", folder / "int8.onnx"
    onnx.save(sparse, dense_path)
    int8_path.write_bytes(quantize_on(sparse.SerializeToString(), np.repeat(x, 4, 0)))
    opened: dict[str, Any] = {}
    for name, path in {"dense": dense_path, "int8": int8_path}.items():
        opened[name] = lambda path=path: partial(
            SessionConfig(1, SESSION_CONFIG).open(path).run, None, {"x": x}
        )
    if openvino := rivals().get("openvino"):
        opened["openvino"] = openvino(dense_path, x, 1)
        opened["openvino-int8"] = openvino(int8_path, x, 1)
    for end, model in {"": sparse, "-1x4": to_onnx(net, batch="n", block=4)}.items():
        in_bytes, _ = quantize_activations(model, [{"x": x}])
        files = {
            f"floats{end}": Packing.of(model, values=np.float32).model,
            f"bytes{end}": Packing.of(in_bytes, values=np.int8).model,
        }
        for name, packed in files.items():
            path = folder / f"{name}.onnx"
            onnx.save(packed, path)
            opened[name] = lambda path=path: partial(
                runtime.session(path, threads=1, config=SESSION_CONFIG).run, None, {"x": x}
            )
            runtime.session(path, threads=1, config=SESSION_CONFIG, tuning_seconds=PLANNED_SECONDS)
    return x, opened


def error(path: Path, x: Any) -> float:
    """How far the kernels are from the rounded network, over its largest output."""
    options = SessionConfig(1).make()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    exact = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    want = exact.run(None, {"x": x})[0]
    got = runtime.session(path, threads=1, config=SESSION_CONFIG).run(None, {"x": x})[0]
    return float(np.abs(got - want).max() / np.abs(want).max())


def row(network: str, mask: str, sparsity: float, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    with tempfile.TemporaryDirectory(prefix="fggp-bytes-") as name:
        folder = Path(name)
        x, opened = contenders(folder, network, mask, sparsity)
        errors = {end: error(folder / f"bytes{end}.onnx", x) for end in ("", "-1x4")}
        samples = measure(
            opened, seconds=options.seconds, sessions=options.sessions, rng=np.random.default_rng(0)
        )
    found: dict[str, Any] = {"network": network, "mask": mask, "sparsity": sparsity}
    found |= {"load_average": load(), "error": errors}
    found["median_ms"] = {name: median_ms(ms) for name, ms in samples.items()}
    found["over_dense"] = {
        name: ratio(samples["dense"], ms) for name, ms in samples.items() if name != "dense"
    }
    said = [f"{name} {words(r)}" for name, r in found["over_dense"].items()]
    print(f"{network:13}{mask:8} {sparsity:.0%}  {'   '.join(said)}  load {load()}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(BIG))
    parser.add_argument("--sparsities", default="0.9,0.95,0.98")
    parser.add_argument("--masks", default="erk,uniform")
    parser.add_argument("--quick", action="store_true", help="fewer sessions and seconds")
    parser.add_argument("--output", type=Path, default=RESULTS / "bytes.json")
    parser.add_argument("--add", action="store_true", help="add to the rows of the file")
    options = parser.parse_args()
    options.seconds = 2.0 if options.quick else 8.0
    options.sessions = 6 if options.quick else N_SESSIONS
    report: dict[str, Any] = {
        "hardware": machine(),
        "isa": chosen_isa(),
        "versions": package_versions() | versions(),
        "commands": [" ".join(["python", "benchmarks/bench_bytes.py", *sys.argv[1:]])],
        "rows": [],
    }
    if options.add:
        earlier = json.loads(options.output.read_text())
        report["commands"] = earlier["commands"] + report["commands"]
        report["rows"] = earlier["rows"]
    with tempfile.TemporaryDirectory(prefix="fggp-plans-") as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # plans of this run only
        for network, mask, sparsity in product(
            options.networks.split(","),
            options.masks.split(","),
            map(float, options.sparsities.split(",")),
        ):
            report["rows"].append(row(network, mask, sparsity, options))
            options.output.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
