"""Draws docs/overview.svg, the picture in README.md, from benchmarks/results.

Left: accuracy, latency and file size of the demo's network. Right: speed-up of larger networks.
The background is transparent and the text is gray, so the picture suits light and dark pages.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TARGET = ROOT / "docs" / "overview.svg"

GRAY, BLUE, ORANGE, GREEN = "#7d8590", "#3b82d6", "#d97a2b", "#2e9e6b"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fggp",
    "font.family": ["sans-serif"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
STYLE |= dict.fromkeys(
    (
        "text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor",
        "xtick.color", "ytick.color", "grid.color",
    ),
    GRAY,
)  # fmt: skip
NETWORKS = {
    "vgg19-32": "VGG-19\n32×32",
    "resnet50-32": "ResNet-50\n32×32",
    "resnet50-224": "ResNet-50\n224×224",
}
CONTENDERS = {
    "openvino-int8": ("OpenVINO int8, dense", "#b3bac2"),
    "int8": ("ONNX Runtime int8, dense", ORANGE),
    "floats": ("sparse kernels, fp32", BLUE),
    "bytes-1x4": ("sparse kernels, int8, 1×4 blocks", GREEN),
}


def read(name: str) -> dict[str, Any]:
    """The JSON object in benchmarks/results/`name`."""
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


def draw_tradeoff(axes: Axes, report: dict[str, Any]) -> None:
    """Top-1 accuracy over latency; a circle's area is proportional to the file's bytes."""
    timings = report["latency"]["timings"]
    sizes, scores = report["size"], report["accuracy"]
    for label, color, latency, score, n_bytes, offset in (
        ("dense fp32", GRAY, timings["reference"], scores["reference"]["top1"],
         sizes["reference_bytes"], (-30, 0)),
        ("dense int8", ORANGE, timings["int8"], report["int8"]["scores"]["top1"],
         report["int8"]["file_bytes"], (-16, 0)),
        ("98% sparse, stock", GRAY, timings["model"], scores["model"]["top1"],
         sizes["file_bytes"], (-8, 0)),
        ("98% sparse, kernels", BLUE, timings["kernels"], scores["model"]["top1"],
         sizes["file_bytes"], (8, 0)),
    ):  # fmt: skip
        at = (latency["median_ms"], 100 * score["value"])
        axes.errorbar(
            *at, yerr=[[at[1] - 100 * score["low"]], [100 * score["high"] - at[1]]],
            color=color, capsize=3, linewidth=1,
        )  # fmt: skip
        axes.scatter(*at, s=n_bytes / 12_000, color=color, alpha=0.75, linewidth=0)
        axes.annotate(
            f"{label}\n{n_bytes / 1e6:.2f} MB", at, offset, textcoords="offset points",
            ha="left" if offset[0] > 0 else "right", va="center",
        )  # fmt: skip
    axes.set_xlim(0, 0.78)
    axes.set_ylim(91.4, 94.3)
    axes.set_xlabel("median latency, 1 thread, ms")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_title("ResNet-10 on Fashion-MNIST", loc="left", fontsize=10)
    axes.grid()


def draw_speed(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Median speed-up over dense fp32 ONNX Runtime at 95% sparsity, with 95% intervals."""
    found = {
        r["network"]: r["over_dense"] for r in rows if (r["mask"], r["sparsity"]) == ("erk", 0.95)
    }
    width = 0.8 / len(CONTENDERS)
    for i, (name, (label, color)) in enumerate(CONTENDERS.items()):
        ratios = [found[network][name]["ratio"] for network in NETWORKS]
        ends = [found[network][name]["interval"] for network in NETWORKS]
        at = [j + (i - (len(CONTENDERS) - 1) / 2) * width for j in range(len(NETWORKS))]
        errors = [[abs(r - e[side]) for r, e in zip(ratios, ends, strict=True)] for side in (0, 1)]
        axes.bar(at, ratios, 0.9 * width, yerr=errors, ecolor=GRAY, color=color, label=label)
        for x, ratio in zip(at, ratios, strict=True):
            axes.annotate(f"{ratio:.1f}", (x, ratio), (0, 6), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
    axes.axhline(1, color=GRAY, linewidth=0.8)
    axes.set_xticks(range(len(NETWORKS)), list(NETWORKS.values()))
    axes.set_ylabel("times as fast as dense fp32")
    axes.set_title("95% sparse, ERK masks, 1 thread", loc="left", fontsize=10)
    axes.legend(loc="upper right", fontsize=9)
    axes.grid(axis="y")


def main() -> None:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        FigureCanvasSVG(figure)
        left, right = figure.subplots(1, 2)
        draw_tradeoff(left, read("resnet10s2_fggp_98_official.json"))
        draw_speed(right, read("bytes.json")["rows"])
        figure.savefig(TARGET, format="svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
