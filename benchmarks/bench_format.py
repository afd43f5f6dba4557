"""Size and load time of packed files: VGG-19 and ResNet-50 (CIFAR) at 90, 95 and 98%.

    python benchmarks/bench_format.py

Random weights with random masks: `erk`, and `late`, which has the last layers at 99.9% and divides
the rest of the budget among the others by ERK. Writes results/format.json and prints a table.
Bytes are exact; load times are medians of interleaved session starts on the machine named there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
from onnx import numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from fggp_deploy import models
from fggp_deploy.checkpoints.provenance import machine
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.exporters import csr, onnx_dense
from fggp_deploy.exporters import onnx as packed_onnx
from fggp_deploy.exporters.torch_onnx import to_onnx
from fggp_deploy.format.choice import entropy_bound_bytes
from fggp_deploy.format.model import Metadata, SparseModel
from fggp_deploy.pruning.allocation import erk

METADATA = Metadata(Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3), tuple("0123456789"))
LATE = 0.999
MOST_DENSE = 0.6  # of what the late layers leave


def late(shapes: dict[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Set the last layers to 99.9%, as many as leave the others at most 60% dense."""
    size = {n: math.prod(s) for n, s in shapes.items()}
    budget = round((1 - sparsity) * sum(size.values()))
    rest, keep = dict(shapes), {}
    for name in reversed(list(shapes)):
        n_keep = round((1 - LATE) * size[name])
        others = sum(size[n] for n in rest if n != name)
        if MOST_DENSE * others < budget - n_keep:
            break
        keep[name] = n_keep
        budget -= n_keep
        del rest[name]
    rest_size = sum(size[n] for n in rest)
    return keep | erk(rest, 1 - budget / rest_size)


def sparsify(model: torch.nn.Module, counts: dict[str, int]) -> None:
    """Random masks, and batch norms as after training, because a new one folds to no bias."""
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.bias.normal_(0, 0.1)
                m.running_mean.normal_(0, 0.1)
        for name, p in model.named_parameters():
            if name in counts:
                order = torch.randperm(p.numel())
                p.view(-1)[order[counts[name] :]] = 0


def load_seconds(paths: list[Path], repeats: int) -> list[list[float]]:
    seconds: list[list[float]] = [[] for _ in paths]
    for _ in range(repeats):
        for path, times in zip(paths, seconds, strict=True):
            start = time.perf_counter()
            session(path)
            times.append(time.perf_counter() - start)
    return seconds


def session(model: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def accepted(model: onnx.ModelProto, x: np.ndarray, expected: np.ndarray) -> dict[str, bool]:
    onnx.checker.check_model(model, full_check=True)
    version_converter.convert_version(model, 20)
    onnx_ir.serde.serialize_model(onnx_ir.serde.deserialize_model(model))
    got = ReferenceEvaluator(model).run(None, {"input": x})[0]
    scale = float(np.abs(expected).max())
    return {
        "checker": True,
        "version_converter": True,
        "onnx_ir": True,
        "reference_evaluator": bool(np.abs(got - expected).max() < 1e-3 * scale),
    }


def measure(name: str, sparsity: float, kind: str, folder: Path, *, repeats: int) -> dict:
    torch.manual_seed(0)
    model = models.build(name, num_classes=10, in_channels=3)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.ndim > 1}
    counts = (erk if kind == "erk" else late)(shapes, sparsity)
    sparsify(model, counts)
    dense = to_onnx(model, METADATA)
    paths = [folder / f"{kind}.onnx" for kind in ("dense", "packed", "int8")]
    onnx_dense.export(dense, METADATA, paths[0])
    packed_onnx.export(dense, METADATA, paths[1])
    packed_onnx.export(dense, METADATA, paths[2], values="int8")
    as_csr = SparseModel.open(csr.export(dense, METADATA, folder / "m.csr"))
    weights = [numpy_helper.to_array(t) for t in dense.graph.initializer]
    bound = sum(entropy_bound_bytes(w) if w.ndim > 1 else w.nbytes for w in weights)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    outputs = [session(p).run(None, {"input": x})[0] for p in paths]
    n_dense, n_packed, n_int8 = (p.stat().st_size for p in paths)
    opened = SparseModel.open(paths[1])
    decoded = session(opened.dense().SerializeToString()).run(None, {"input": x})[0]
    unpacked8 = session(SparseModel.open(paths[2]).dense().SerializeToString())
    decoded8 = unpacked8.run(None, {"input": x})[0]
    rebuilt = session(as_csr.runnable()).run(None, {"input": x})[0]
    start = time.perf_counter()
    SparseModel.open(paths[1])
    open_s = time.perf_counter() - start
    times = load_seconds(paths, repeats)
    return {
        "model": name,
        "sparsity": sparsity,
        "masks": kind,
        "layers_at_999": sum(
            round(1 - counts[n] / math.prod(s), 3) >= LATE for n, s in shapes.items()
        ),
        "dense_bytes": n_dense,
        "packed_bytes": n_packed,
        "csr_bytes": as_csr.file_bytes(),
        "int8_bytes": n_int8,
        "share": n_packed / n_dense,
        "int8_share": n_int8 / n_dense,
        "int8_rel": float(np.abs(outputs[2] - outputs[0]).max() / np.abs(outputs[0]).max()),
        "int8_numpy_decoder_bit_equal": outputs[2].tobytes() == decoded8.tobytes(),
        "over_bound": n_packed / bound - 1,
        "encodings": sorted({layer.encoding for layer in opened.layers}),
        "bit_equal": outputs[0].tobytes() == outputs[1].tobytes(),
        "numpy_decoder_bit_equal": outputs[0].tobytes() == decoded.tobytes(),
        "csr_bit_equal": outputs[0].tobytes() == rebuilt.tobytes(),
        "dense_load_s": statistics.median(times[0]),
        "packed_load_s": statistics.median(times[1]),
        "int8_load_s": statistics.median(times[2]),
        "load_s_all": times,
        "our_open_s": open_s,
        **accepted(onnx.load(paths[1]), x, outputs[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["vgg19", "resnet50"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/format.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(
        "model     target masks  share   int8    over bound  load dense/packed/int8 s  bit-equal  "
        "int8 changes  encodings"
    )
    for name in args.models:
        for sparsity in (0.90, 0.95, 0.98):
            for kind in ("erk", "late"):
                with tempfile.TemporaryDirectory() as folder:
                    r = measure(name, sparsity, kind, Path(folder), repeats=args.repeats)
                rows.append(r)
                equal = all(v for k, v in r.items() if k.endswith("bit_equal"))
                print(
                    f"{name:9} {sparsity:.2f}   {kind:5} {r['share']:.4f}  "
                    f"{r['int8_share']:.4f}  {r['over_bound']:+8.2%}  {r['dense_load_s']:8.3f} "
                    f"{r['packed_load_s']:8.3f} {r['int8_load_s']:8.3f}  {equal!s:9}  "
                    f"{r['int8_rel']:.1e}  {' '.join(r['encodings'])}",
                    flush=True,
                )
    about = {
        "command": "python benchmarks/bench_format.py",
        "repeats": args.repeats,
        "cpu": machine()["cpu"],
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "torch": torch.__version__,
    }
    args.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
