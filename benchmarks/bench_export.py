"""Which networks export, and to how many bytes: ours and torchvision's with 90% random masks.

    python benchmarks/bench_export.py

For each network, the table answers: Does it pack? Does the file pass its self-test (torch's
logits)? Do ONNX Runtime and `runtime.session` give the logits of the dense network with the same
zeros? It also has the bytes of the file dense, packed, with fp16 values and as sparse_initializer,
the packed nodes by operator, and the weights left dense with the reason. Weights are
He-initialized where masks keep them
(`uniform`: every weight but the first convolution's, depthwise ones too; `erk`), and batch norms
have the statistics of random images.

Writes results/export.json and prints a table. Bytes are exact and nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto
from torch import nn

from fggp_deploy import models, runtime
from fggp_deploy.common.files import write_atomic
from fggp_deploy.common.torchvision_import import import_torchvision
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import ModelFileError
from fggp_deploy.exporters import load as load_format
from fggp_deploy.exporters.torch_onnx import to_onnx
from fggp_deploy.format.functions import DOMAIN
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.self_test import LOGITS, SelfTest
from fggp_deploy.measure.network import Network, load
from fggp_deploy.pruning.allocation import ALLOCATIONS
from fggp_deploy.pruning.pruner import prunable_parameters, weight_parameters

TORCHVISION = (
    "alexnet", "vgg16_bn", "googlenet", "densenet121", "squeezenet1_1", "mobilenet_v2",
    "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "shufflenet_v2_x1_0",
    "convnext_tiny", "vit_b_16",
)  # fmt: skip
NETWORKS = (*models.MODELS, *(f"torchvision:{name}" for name in TORCHVISION))
SPARSITY = 0.9
KERNELS_RTOL = 1e-5  # of the largest logit: how far runtime.session may be from stock


@dataclass(frozen=True)
class Row:
    """One network. Errors are relative to the largest logit.

    `stock_error` and `kernels_error` are differences from torch in float64. `spread` is how much
    the logits of different images differ; without a spread, agreement would mean little.
    """

    network: str
    input: tuple[int, int, int]
    masks: str
    n_weights: int
    n_removed: int
    self_test: bool
    self_test_rel: float
    bit_equal: bool
    parity_rel: float
    kernels_rel: float | None
    kernels_top1_same: bool
    kernels_failure: str
    stock_error: float
    kernels_error: float | None
    regions: int
    spread: float
    dense_bytes: int
    packed_bytes: int
    fp16_bytes: int
    fp16_rel: float
    sparse_initializer_bytes: int
    packed_nodes: dict[str, int]
    left_dense: dict[str, list[str]]

    @property
    def kernels_agree(self) -> bool:
        """Within 1e-5 of stock; if not, the kernels must be as close to the exact result."""
        if self.kernels_rel is None or self.kernels_error is None or not self.kernels_top1_same:
            return False
        return self.kernels_rel <= KERNELS_RTOL or self.kernels_error <= 1.5 * self.stock_error

    @property
    def failures(self) -> list[str]:
        """The requirements that a network fails."""
        wrong = {
            "does not pack": not self.packed_nodes or self.packed_bytes >= self.dense_bytes,
            "self-test": not self.self_test,
            "parity": not self.bit_equal and self.parity_rel > 1e-5,
            "kernels": not self.kernels_agree,
            "says nothing": self.spread < 1e-2,
        }
        return [what for what, is_so in wrong.items() if is_so]


def measure(name: str, folder: Path, *, masks: str = "uniform", size: int = 0) -> Row:
    """Build, mask, export and run one network; `size` 0 is 224 for torchvision's, 32 for ours."""
    model, shape = build(name, size)
    n_weights, n_removed = sparsify(model, shape, masks)
    preprocessing = Preprocessing(*shape[1:], (0.5,) * shape[0], (0.25,) * shape[0])
    with torch.no_grad():
        test = SelfTest.of_classifier(lambda x: model(torch.from_numpy(x)).numpy(), shape, batch=2)
    classes = tuple(map(str, range(test.logits.shape[1])))
    metadata = Metadata(preprocessing, classes, test, model=name)
    dense = to_onnx(model, metadata)
    notes: list[str] = []
    path = load_format("onnx").export(dense, metadata, folder / "model.onnx", note=notes.append)
    half = load_format("onnx").export(dense, metadata, folder / "half.onnx", values="fp16")
    coo = load_format("onnx-sparse").export(dense, metadata, folder / "sparse.onnx")
    x = test.images()
    stock = load("dense", dense.SerializeToString(), threads=1).logits(x)
    scale = float(np.abs(stock).max())

    with torch.no_grad():
        truth = model.double()(torch.from_numpy(x).double()).numpy()

    def off(y: np.ndarray, expected: np.ndarray = stock) -> float:
        return float(np.abs(y - expected).max()) / scale

    packed = load("packed", SparseModel.open(path).runnable(), threads=1).logits(x)
    fast = runtime.session(path, threads=1, measure=False, cache=False)
    failure, on_kernels = "", np.full_like(stock, np.nan)
    try:
        on_kernels = Network("kernels", fast).logits(x)
    except ModelFileError as e:
        failure = str(e)
    for other in (half, coo):
        SparseModel.open(other)
    return Row(
        network=name,
        input=shape,
        masks=masks,
        n_weights=n_weights,
        n_removed=n_removed,
        self_test=test.passes({LOGITS: packed}),
        self_test_rel=float(np.abs(packed - test.logits).max()) / scale,
        bit_equal=packed.tobytes() == stock.tobytes(),
        parity_rel=off(packed),
        kernels_rel=None if failure else off(on_kernels),
        kernels_top1_same=not failure and bool((on_kernels.argmax(1) == stock.argmax(1)).all()),
        kernels_failure=failure,
        stock_error=off(stock, truth),
        kernels_error=None if failure else off(on_kernels, truth),
        regions=int(fast.get_modelmeta().custom_metadata_map.get("fggp.regions", 0)),
        spread=float(stock.std(0).max()) / scale,
        dense_bytes=dense.ByteSize(),
        packed_bytes=path.stat().st_size,
        fp16_bytes=half.stat().st_size,
        fp16_rel=off(load("fp16", half, threads=1).logits(x)),
        sparse_initializer_bytes=coo.stat().st_size,
        packed_nodes=packed_nodes(onnx.load(path)),
        left_dense=by_reason(notes),
    )


def build(name: str, size: int) -> tuple[nn.Module, tuple[int, int, int]]:
    torch.manual_seed(0)
    own, _, architecture = name.rpartition(":")
    if not own:
        side = size or 32
        return models.build(name, num_classes=10, in_channels=3), (3, side, side)
    side = size or 224
    zoo = import_torchvision().models
    options = {"init_weights": False} if architecture == "googlenet" else {}
    if architecture.startswith("vit"):
        options["image_size"] = side
    return zoo.get_model(architecture, weights=None, **options), (3, side, side)


@torch.no_grad()
def sparsify(model: nn.Module, shape: tuple[int, int, int], masks: str) -> tuple[int, int]:
    """Mask and initialize in place, in eval mode; the numbers of weights and of removed weights."""
    joint = {n: p for n, p in model.named_parameters() if n.endswith("in_proj_weight")}
    prunable = prunable_parameters(model) | joint  # attention's three in one is no Linear
    shapes = {n: tuple(p.shape) for n, p in prunable.items()}
    keep = ALLOCATIONS[masks](shapes, SPARSITY)
    weights = weight_parameters(model) | joint
    for name, p in weights.items():
        n_keep = keep.get(name, p.numel())
        fan_in = max(1.0, n_keep / p.shape[0])
        p.normal_(0, (2 / fan_in) ** 0.5)
        if name in keep:
            p.view(-1)[torch.randperm(p.numel())[n_keep:]] = 0
    for name, p in model.named_parameters():
        if "layer_scale" in name or name == "class_token":  # as born they silence their blocks
            p.uniform_(0.2, 1)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms:
        m.momentum = None  # statistics are those of the one batch that follows
        m.weight.uniform_(0.5, 1.5)
        m.bias.normal_(0, 0.2)
    if norms:
        model.train()(torch.randn(4, *shape))
    for m in norms:  # an all but constant channel would be blown up to noise
        m.running_var.clamp_(min=0.1 * float(m.running_var.mean()))
    model.eval()
    n_removed = sum(p.numel() - keep[n] for n, p in prunable.items())
    return sum(p.numel() for p in weights.values()), n_removed


def packed_nodes(model: ModelProto) -> dict[str, int]:
    counts = Counter(n.op_type for n in model.graph.node if n.domain == DOMAIN)
    return dict(sorted(counts.items()))


def by_reason(notes: list[str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for note in notes:
        kind, name, why = note.split(": ", 2)
        assert kind == "left dense"
        reasons[why].append(name)
    return dict(reasons)


HEAD = (
    "network                        masks    ok  self-test  parity     kernels    (error against "
    "float64: stock kernels)  regions  "
    "dense MB  packed MB  share   fp16   COO    nodes packed; left dense"
)


def line(r: Row) -> str:
    kernels = "fails" if r.kernels_rel is None else f"{r.kernels_rel:.1e}"
    own = "–" if r.kernels_error is None else f"{r.kernels_error:.1e}"
    parity = "equal bits" if r.bit_equal else f"{r.parity_rel:.1e}   "
    shares = [n / r.dense_bytes for n in (r.packed_bytes, r.fp16_bytes, r.sparse_initializer_bytes)]
    nodes = ", ".join(f"{n} {op}" for op, n in r.packed_nodes.items())
    dense = sum(map(len, r.left_dense.values()))
    return (
        f"{r.network:30} {r.masks:8} {'NO' if r.failures else 'yes':3} {r.self_test_rel:8.1e}  "
        f"{parity:10} {kernels:>9}  ({r.stock_error:.1e} {own:>7})  {r.regions:7}  "
        f"{r.dense_bytes / 1e6:8.2f}  {r.packed_bytes / 1e6:9.2f}  {shares[0]:.4f}  "
        f"{shares[1]:.4f} {shares[2]:.4f} {nodes}; "
        f"{dense} {' '.join(r.failures)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--masks", nargs="+", default=["uniform", "erk"], choices=ALLOCATIONS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/export.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    about = {
        "command": "python benchmarks/bench_export.py",
        "sparsity": SPARSITY,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "torch": torch.__version__,
        "torchvision": import_torchvision().__version__,
    }
    rows = []
    print(HEAD)
    for name in args.networks:
        for masks in args.masks:
            with tempfile.TemporaryDirectory() as folder:
                row = measure(name, Path(folder), masks=masks)
            rows.append(asdict(row) | {"failures": row.failures})
            print(line(row), flush=True)
            about["seconds"] = round(time.monotonic() - began)  # written whole after each network
            write_atomic(args.out, json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
