"""Pack ONNX files from other packages, masked by magnitude if they are dense.

    pip download --no-deps rapidocr-onnxruntime==1.4.4 silero-vad==6.2.3 magika==1.0.3  # unzip them
    python benchmarks/bench_foreign.py FOLDER... --out benchmarks/results/foreign.json

Every .onnx file in the folders is masked (each float weight of two or more dimensions and at least
1,024 elements, to `--sparsity` of its own smallest magnitudes), packed, and run beside its source.
The predictions of a masked network are meaningless. Measured are bytes, parity, and latency with
--seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from fggp_deploy import kernels, runtime
from fggp_deploy.checkpoints.provenance import machine, package_versions
from fggp_deploy.common.files import sha256_file, write_atomic
from fggp_deploy.common.timing import rounds
from fggp_deploy.errors import FggpError
from fggp_deploy.exporters.pack import pack_file
from fggp_deploy.graph.lifting import lift_weights
from fggp_deploy.runtime.feeds import random_feeds
from fggp_deploy.runtime.sessions import SessionConfig

SHAPES = {  # of one input, if a file leaves it open: what its package feeds it
    "ch_PP-OCRv4_det_infer.onnx": (3, 640, 640),
    "ch_PP-OCRv4_rec_infer.onnx": (3, 48, 320),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": (3, 48, 192),
}
LEAST = 1024  # elements of a weight that is masked


def masked(model: ModelProto, sparsity: float) -> ModelProto:
    """The model with the smallest magnitudes of each large float weight set to zero."""
    out = lift_weights(model)
    for tensor in out.graph.initializer:
        if len(tensor.dims) < 2 or tensor.data_type != TensorProto.FLOAT:
            continue
        w = numpy_helper.to_array(tensor).copy()
        if w.size < LEAST:
            continue
        order = np.argsort(np.abs(w), axis=None, kind="stable")
        w.reshape(-1)[order[: round(sparsity * w.size)]] = 0
        tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
    return out


def measure(path: Path, sparsity: float, seconds: float) -> dict[str, Any]:
    """One row of the table: the packed network, and the weights that were left."""
    row: dict[str, Any] = {"file": path.name, "sha256": sha256_file(path)}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / path.name
        onnx.save(masked(onnx.load(path), sparsity), source)
        row["masked_bytes"] = source.stat().st_size
        try:
            made = pack_file(source)
        except FggpError as e:
            return row | {"refused": str(e).replace(folder + "/", "")}
        row |= {
            "packed_bytes": made.file_bytes,
            "share": round(made.file_bytes / made.source_bytes, 4),
            "n_packed": made.n_packed,
            "zeros": round(made.n_zeros / made.n_weights, 4),
            "opset": [made.source_opset, made.opset],
            "ran": made.ran,
            "why_not": made.why_not,
            "bit_equal": made.bit_equal,
            "error": made.error,
            "kernels_error": made.kernels_error,
            "left_dense": len(made.notes),
        }
        if seconds and made.ran:
            row["speed"] = speed(source, made.path, seconds)
    return row


def speed(source: Path, packed: Path, seconds: float) -> dict[str, Any]:
    """Median milliseconds on one thread: the masked file on stock ORT, and runtime.session."""
    from fggp_deploy.format.model import SparseModel

    shape = SHAPES.get(source.name, ())
    if shape:
        feeds = random_feeds(onnx.load(source), 1, shape=shape)
    else:
        test = SparseModel.open(packed).metadata.selftest
        assert test is not None
        feeds = test.feeds()
    fast = runtime.session(packed, threads=1, shape=shape)
    sessions = {"stock": SessionConfig(1).open(source), "runtime.session": fast}
    runs = {n: (lambda s=s: s.run(None, feeds)) for n, s in sessions.items()}
    ms = rounds(runs, seconds=seconds, rng=np.random.default_rng(0), least=6, most=200, warmup=2)
    found = {n: round(float(np.median(t)), 3) for n, t in ms.items()}
    ratios = [a / b for a, b in zip(ms["stock"], ms["runtime.session"], strict=True)]
    return {
        "fed": {name: list(x.shape) for name, x in feeds.items()},
        "median_ms": found,
        "ratio": round(float(np.median(ratios)), 3),
        "session": runtime.explain(fast),
    }


def main() -> None:
    """Write one JSON object with a row for each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--seconds", type=float, default=0.0, help="for latency, of each file")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    paths = sorted({p for f in args.folders for p in f.rglob("*.onnx")}, key=lambda p: p.name)
    result = {
        "what": f"each weight masked to {args.sparsity:.0%} by magnitude, then packed",
        "versions": package_versions(),
        "machine": machine(),
        "kernels": kernels.status().text,
        "timed": args.seconds > 0,
        "files": [measure(p, args.sparsity, args.seconds) for p in paths],
    }
    text = json.dumps(result, indent=1) + "\n"
    if args.out:
        write_atomic(args.out, text)
    print(text, end="")


if __name__ == "__main__":
    main()
