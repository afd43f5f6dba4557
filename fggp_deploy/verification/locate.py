"""The first layer and channel at which two networks differ that should be equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, numpy_helper

from fggp_deploy import runtime
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.functions import layer_operator
from fggp_deploy.format.unpacking import layer_name
from fggp_deploy.graph.comparison import RTOL, differences, parity_of, rtol_for, scale
from fggp_deploy.graph.constants import initializers
from fggp_deploy.graph.qdq import has_quantized_activations
from fggp_deploy.graph.shapes import inferred
from fggp_deploy.graph.view import GraphView
from fggp_deploy.measure.network import Floats
from fggp_deploy.runtime.sessions import brief

MAX_CHANNELS = 8  # that a mismatch names

Values = dict[str, Floats]  # outputs of nodes by name


@dataclass(frozen=True)
class Mismatch:
    """The first node whose output differs from that of the trusted network.

    `layer` is the convolution or linear layer that the node is or follows. `channels` are the first
    eight of the `n_channels` that differ, the worst first. `max_abs` is the largest difference and
    `scale` the largest trusted value. `tensors` names the constants that differ between the two
    files. `against` says which network was trusted.
    """

    against: str
    layer: str
    op: str
    channels: tuple[int, ...]
    n_channels: int
    max_abs: float
    scale: float
    tensors: tuple[str, ...]

    def __str__(self) -> str:
        """One sentence for people."""
        where = f"layer {self.layer} ({self.op})"
        if self.channels:
            more = "" if self.n_channels <= len(self.channels) else ", …"
            listed = ", ".join(map(str, self.channels))
            where += f", {self.n_channels} channel(s): {listed}{more}"
        text = (
            f"Compared with {self.against}, the first that differs is {where}; by up to "
            f"{self.max_abs:.3g} for values up to {self.scale:.3g}"
        )
        if self.tensors:
            text += f". Constants that differ: {', '.join(self.tensors[:4])}"
            text += "" if len(self.tensors) <= 4 else f" and {len(self.tensors) - 4} more"
        return text


def first_difference(
    suspect: ModelProto, trusted: ModelProto, x: Floats, *, against: str
) -> Mismatch | None:
    """Run two graphs in standard operators on x [N, C, H, W] and compare node by node.

    Outputs are matched by name, in the order of `suspect`; None if all common outputs agree. Raises
    ModelFileError for a graph that does not run or shares no name with the other.
    """
    theirs = GraphView(trusted.graph).producers
    nodes = [n for n in suspect.graph.node if n.output[0] and n.output[0] in theirs]
    if not nodes:
        raise ModelFileError(f"no layer has the same name in {against}; they cannot be compared")
    outputs = [n.output[0] for n in nodes]
    # One runtime runs both, so int8 activations need no wider tolerance.
    expected = _Expected(trusted, outputs, x, against=against)
    found = _values(suspect, outputs, x)
    return _first(suspect, nodes, found, expected, _other_tensors(suspect, trusted))


def first_difference_on_kernels(dense: ModelProto, x: Floats, *, threads: int) -> Mismatch | None:
    """Compare stock ONNX Runtime with the sparse kernels, layer by layer.

    A region of the kernels has no inner outputs. Therefore the network is cut after each layer in
    turn, and the part before the cut runs on the kernels.
    """
    nodes = [n for n in dense.graph.node if _weight(n)]
    rtol = rtol_for(in_bytes=has_quantized_activations(dense))
    outputs = [n.output[0] for n in nodes]
    expected = _Expected(dense, outputs, x, against="stock onnxruntime", rtol=rtol)
    for node in nodes:
        found = {node.output[0]: _on_kernels(dense, node.output[0], x, threads)}
        if mismatch := _first(dense, [node], found, expected, ()):
            return mismatch
    return None


class _Expected:
    """What stock ONNX Runtime computes for some values of the trusted network.

    `against` names the network. `rtol` is the tolerance of `comparison.parity_of`.
    """

    def __init__(
        self,
        trusted: ModelProto,
        outputs: list[str],
        x: Floats,
        *,
        against: str,
        rtol: float = RTOL,
    ) -> None:
        self.against = against
        self.rtol = rtol
        self.values = _values(trusted, outputs, x)
        self._optimized = cache(lambda: _values(trusted, outputs, x, optimize=True))

    def excess(
        self, name: str, y: Floats
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None:
        """The differences from y, and which of them are too large; None if y agrees.

        Values of another shape are passed over, as they are laid out in another way. So are
        integers, of which `comparison.parity_of` judges no single element.
        """
        want = self.values[name]
        if y.shape != want.shape or {y.dtype.kind, want.dtype.kind} != {"f"}:
            return None
        # What is compared runs without graph optimizations. So the run with them shows how far
        # stock ONNX Runtime is from itself.
        found = parity_of(
            [y], [want], rtol=self.rtol, unoptimized=lambda: [self._optimized()[name]]
        )
        if found.passed:
            return None
        gap = differences(y, want)
        return gap, ~(gap / scale(want) <= found.limit)  # NaN is too large


def _first(
    graph: ModelProto,
    nodes: list[NodeProto],
    found: Values,
    expected: _Expected,
    tensors: tuple[str, ...],
) -> Mismatch | None:
    for node in nodes:
        name = node.output[0]
        excess = expected.excess(name, found[name])
        if excess is None:
            continue
        gap, bad = excess
        sizes = np.nan_to_num(gap, nan=np.inf)
        channels: tuple[int, ...] = ()
        if gap.ndim >= 2:
            others = tuple(i for i in range(gap.ndim) if i != 1)
            order = np.argsort(-sizes.max(axis=others), kind="stable")
            differs = np.asarray(bad.any(axis=others))
            channels = tuple(int(c) for c in order if differs[c])
        return Mismatch(
            against=expected.against,
            layer=layer_of(GraphView(graph.graph), node),
            op=node.op_type,
            channels=channels[:MAX_CHANNELS],
            n_channels=len(channels),
            max_abs=float(min(sizes.max(), np.finfo(np.float64).max)),
            scale=scale(expected.values[name]),
            tensors=tensors,
        )
    return None


def _values(model: ModelProto, outputs: list[str], x: Floats, *, optimize: bool = False) -> Values:
    shown = ModelProto()
    shown.CopyFrom(model)
    have = {v.name for v in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=o) for o in outputs if o not in have)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return dict(zip(outputs, _run(lambda: _open(shown, options), outputs, x), strict=True))


def _open(model: ModelProto, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _on_kernels(dense: ModelProto, output: str, x: Floats, threads: int) -> Floats:
    cut = ModelProto()
    cut.CopyFrom(dense)
    needed, kept = {output}, []
    for node in reversed(dense.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    del cut.graph.node[:], cut.graph.output[:], cut.graph.value_info[:]
    cut.graph.node.extend(reversed(kept))
    cut.graph.output.append(onnx.ValueInfoProto(name=output))
    shapes = inferred(dense)
    for value in (*shapes.value_info, *shapes.output):
        if value.name == output:
            cut.graph.output[0].CopyFrom(value)
    return _run(
        lambda: runtime.session(
            cut.SerializeToString(), threads=threads, measure=False, cache=False
        ),
        [output],
        x,
    )[0]


def _run(opened: Callable[[], ort.InferenceSession], outputs: list[str], x: Floats) -> list[Floats]:
    try:
        session = opened()
        values: list[Floats] = session.run(outputs, {session.get_inputs()[0].name: x})
        return values
    except Exception as e:  # onnxruntime's exceptions have no common base
        raise ModelFileError(f"the layers cannot be compared one by one: {brief(e)}") from e


def _weight(node: NodeProto) -> str | None:
    """The name of the weight that a layer reads, packed or not; None for other nodes."""
    if (packed := layer_operator(node)) is not None:
        return node.input[1].removesuffix(f".{packed.encoding.parts[0]}")
    kinds = ("Conv", "Gemm", "MatMul")
    return node.input[1] if node.op_type in kinds and len(node.input) > 1 else None


def layers_by_node(graph: ModelProto) -> dict[str, str]:
    """For each node's name and outputs, the layer that the node is or follows."""
    found: dict[str, str] = {}
    view = GraphView(graph.graph)
    for node in graph.graph.node:
        layer = layer_of(view, node)
        found |= dict.fromkeys((node.name, *node.output), layer)
    return found


def layer_of(view: GraphView, node: NodeProto) -> str:
    """The layer whose weight the node reads, or that of the nearest node before it."""
    made_by = view.producers
    seen: NodeProto | None = node
    while seen is not None:
        if weight := _weight(seen):
            source = made_by.get(weight)  # a transposed weight of a MatMul
            return layer_name(source.input[0] if source is not None else weight)
        seen = next((made_by[i] for i in seen.input if i in made_by), None)
    return node.name or node.output[0]


def _other_tensors(suspect: ModelProto, trusted: ModelProto) -> tuple[str, ...]:
    theirs = initializers(trusted.graph)
    return tuple(
        name
        for name, t in initializers(suspect.graph).items()
        if name in theirs
        and not np.array_equal(numpy_helper.to_array(t), numpy_helper.to_array(theirs[name]))
    )
