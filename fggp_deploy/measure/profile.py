"""Time per layer, measured by ONNX Runtime's profiler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from fggp_deploy.common.files import scratch_folder
from fggp_deploy.errors import ModelFileError
from fggp_deploy.measure.network import Floats, brief
from fggp_deploy.runtime.costs import read_profile

N_RUNS, N_WARMUP = 20, 5


@dataclass(frozen=True)
class LayerTime:
    """Median time of one layer over `n` runs and its middle 90% [low_ms, high_ms].

    A layer is a convolution or linear layer with the nodes that follow it up to the next one; `ops`
    are its operators in ONNX Runtime's optimized graph.
    """

    name: str
    ops: tuple[str, ...]
    n: int
    median_ms: float
    low_ms: float
    high_ms: float


def profile(
    model: bytes, x: Floats, *, threads: int, layers: Mapping[str, str]
) -> tuple[LayerTime, ...]:
    """Profile a serialized model on stock ONNX Runtime, in the order in which layers first run.

    `layers` gives the layer of each node by the node's name and by the names of its outputs. Nodes
    that ONNX Runtime added are named after their operator. The profiler takes time at each node, so
    the sum exceeds the latency. Raises ModelFileError for a model that does not run.
    """
    with scratch_folder("fggp-profile-") as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "ort")
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            feed = {session.get_inputs()[0].name: x}
            for _ in range(N_WARMUP + N_RUNS):
                session.run(None, feed)
            written = Path(session.end_profiling())
        except Exception as e:  # onnxruntime's exceptions have no common base
            raise ModelFileError(f"the model cannot be profiled: {brief(e)}") from e
        events = read_profile(written)
    return _summary(events, layers)


def _summary(events: list[dict[str, object]], layers: Mapping[str, str]) -> tuple[LayerTime, ...]:
    ms: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    ops: dict[str, dict[str, None]] = defaultdict(dict)
    for event in events:
        name, arguments, spent = str(event.get("name", "")), event.get("args"), event.get("dur")
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        if not isinstance(spent, int | float):
            continue
        # onnxruntime appends "_nchwc" if it changes the memory layout
        node = name.removesuffix("_kernel_time").removesuffix("_nchwc")
        op = str(arguments.get("op_name", "")) if isinstance(arguments, dict) else ""
        layer = layers.get(node, "other: " + op)
        ms[layer][name].append(spent / 1000)
        ops[layer][op] = None
    found = []
    for layer, nodes in ms.items():
        n = min(N_RUNS, *(len(times) for times in nodes.values()))
        total = np.sum([times[-n:] for times in nodes.values()], axis=0)
        low, median, high = (float(q) for q in np.percentile(total, [5, 50, 95]))
        found.append(LayerTime(layer, tuple(ops[layer]), n, median, low, high))
    return tuple(found)
