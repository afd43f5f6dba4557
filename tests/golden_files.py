"""Regenerates tests/golden: `python tests/golden_files.py`. Their weights are in docs/format.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from fggp_deploy.data.types import Preprocessing
from fggp_deploy.exporters import csr
from fggp_deploy.exporters import onnx as packed
from fggp_deploy.format.generated_inputs import probe
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.graph.comparison import SELF_TEST_ATOL

FOLDER = Path(__file__).parent / "golden"
ONNX, CSR = FOLDER / "tiny.onnx", FOLDER / "tiny.csr"
CONV_SHAPE, FC_SHAPE = (16, 1, 5, 5), (100, 16)


def conv_weight() -> np.ndarray:
    w = np.zeros(CONV_SHAPE, np.float32)
    w.reshape(-1)[36::37] = 1
    return w


def fc_weight() -> np.ndarray:
    w = np.zeros(FC_SHAPE, np.float32)
    w.reshape(-1)[::20] = 0.5
    return w


def dense() -> ModelProto:
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["input", "conv.weight", "conv.bias"], ["a"], "conv", pads=[2] * 4),
            node("ReduceMean", ["a", "axes"], ["b"], "mean", keepdims=0),
            node("Gemm", ["b", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
        ],
        "network",
        [helper.make_tensor_value_info("input", 1, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", 1, ["batch", 100])],
        [
            numpy_helper.from_array(conv_weight(), "conv.weight"),
            numpy_helper.from_array(np.full(16, 0.25, np.float32), "conv.bias"),
            numpy_helper.from_array(fc_weight(), "fc.weight"),
            numpy_helper.from_array(np.zeros(100, np.float32), "fc.bias"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def logits() -> np.ndarray:
    """What the network says of the probe of seed 1, batch 2, by numpy alone."""
    x = np.pad(probe(1, (2, 1, 4, 4)), ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (2, 3))[:, 0]
    y = np.einsum("nhwij,mij->nmhw", windows, conv_weight()[:, 0]) + 0.25
    return (y.mean((2, 3)) @ fc_weight().T).astype(np.float32)


def metadata() -> Metadata:
    classes = tuple(f"class {i}" for i in range(100))
    return Metadata(
        Preprocessing(4, 4, (0.5,), (0.25,)),
        classes,
        SelfTest.of_logits(1, logits(), (1, 4, 4), atol=SELF_TEST_ATOL),
    )


def main() -> None:
    packed.export(dense(), metadata(), ONNX)
    csr.export(dense(), metadata(), CSR)


if __name__ == "__main__":
    main()
