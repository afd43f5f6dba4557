"""Quantizes activations to 8 bits with standard ONNX operators (QuantizeLinear, DequantizeLinear).

Two nodes follow each Relu (or Clip from 0) whose output a convolution reads: they round to uint8
with zero point 0 and back. An input that only convolutions read gets the same with a zero point of
its own. A standard runtime computes the rounded network in floats. Kernels that find such a value
in front of a convolution with int8 weights multiply integers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fggp_deploy.data import Preprocessing
from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import ConfigError, DataError
from fggp_deploy.graph.constants import required_inputs
from fggp_deploy.graph.nodes import attribute
from fggp_deploy.graph.view import GraphView
from fggp_deploy.measure.evaluation_data import calibration_images
from fggp_deploy.runtime.sessions import SessionConfig, run

Array = npt.NDArray[Any]
LEVELS = 255
BLOCK = 4  # input channels that the kernels multiply at once
FULL = 0.7  # below this share of non-zeros in a block, a note is given
_CLIPPED_AT = np.linspace(0.2, 1.0, 33)  # shares of the largest value at which a range may end
_BATCH = 32  # calibration images per batch
_SAMPLE = 65_536  # values of one activation of one batch that its range is chosen by


@dataclass(frozen=True)
class Quantization:
    """x ≈ scale · (q − zero_point) for q in 0..255."""

    scale: float
    zero_point: int

    def round_trip(self, x: Array) -> Array:
        """x, quantized and dequantized."""
        q = np.clip(np.rint(x / self.scale) + self.zero_point, 0, LEVELS)
        return self.scale * (q - self.zero_point)


def quantize_on_images(
    dense: ModelProto, data: Dataset | None, preprocessing: Preprocessing
) -> tuple[ModelProto, list[str]]:
    """`quantize_activations` on the training images of `data`, and lines for the user.

    Raises DataError if there are no such images, ConfigError as `quantize_activations`.
    """
    if data is None or not len(data.train):
        raise DataError(
            "the ranges of activations need training images, but there are none; give --data"
        )
    images, name = calibration_images(data, preprocessing), dense.graph.input[0].name
    feeds = [{name: images[i : i + _BATCH]} for i in range(0, len(images), _BATCH)]
    model, values = quantize_activations(dense, feeds)
    n = len(values) - (name in values)
    what = f"the input and {n} activations are" if name in values else f"{n} activations are"
    notes = [f"{what} quantized to int8, with ranges from {len(images)} training images"]
    if (share := block_fill(dense)) < FULL:
        notes.append(
            f"the remaining blocks of four inputs hold {share:.0%} non-zeros, so the kernels "
            "multiply zeros; prune with --pattern 1x4 for their full speed"
        )
    return model, notes


def quantize_activations(
    dense: ModelProto, feeds: Sequence[dict[str, Array]]
) -> tuple[ModelProto, list[str]]:
    """The network with quantized activations, and the names of the values that are quantized.

    The range of an activation is the one with the least squared error on `feeds`, inputs as the
    network takes them. The range of an input covers all of theirs and the self-test's ±1. Raises
    ConfigError if the network has no such activation, or none is ever above 0.
    """
    names = quantizable_activations(dense)
    if not names:
        raise ConfigError(
            "no convolution reads the output of a Relu, so there are no activations to quantize"
        )
    found = calibrate(dense, [*quantizable_inputs(dense), *names], feeds)
    if not any(n in found for n in names):
        raise ConfigError(
            "every activation is 0 on the calibration images; give other images, or omit "
            "--activations int8"
        )
    model = ModelProto()
    model.CopyFrom(dense)
    _Insertion(model).insert(found)
    return model, list(found)


def quantizable_inputs(model: ModelProto) -> list[str]:
    """Inputs that only convolutions of all channels read."""
    view = GraphView(model.graph)
    return [
        v.name
        for v in required_inputs(model.graph)
        if (readers := view.readers(v.name)) and all(_mixes_channels(node) for node in readers)
    ]


def quantizable_activations(model: ModelProto) -> list[str]:
    """Values from 0 on that a convolution of all channels reads, also if a MaxPool is between."""
    view = GraphView(model.graph)
    outputs = {v.name for v in model.graph.output}

    def is_multiplied(value: str) -> bool:
        readers = (use.node for use in view.uses.get(value, ()) if use.index == 0)
        return any(
            _mixes_channels(node) or (node.op_type == "MaxPool" and is_multiplied(node.output[0]))
            for node in readers
        )

    made = (node.output[0] for node in model.graph.node if _is_never_negative(node, view))
    return [value for value in made if value not in outputs and is_multiplied(value)]


def block_fill(model: ModelProto) -> float:
    """The share of non-zeros in the blocks of four input channels that hold any; 1 without such.

    It counts convolutions of all channels that have some zeros, except those whose number of inputs
    is not a multiple of four.
    """
    n_kept = n_room = 0
    view = GraphView(model.graph)
    for node in model.graph.node:
        stored = view.constant(node.input[1]) if _mixes_channels(node) else None
        if stored is None:
            continue
        w = stored != 0
        if w.shape[1] % BLOCK or w.all():
            continue
        blocks = w.reshape(w.shape[0], w.shape[1] // BLOCK, BLOCK, -1).sum(2)
        n_kept += int(blocks.sum())
        n_room += BLOCK * int((blocks > 0).sum())
    return n_kept / n_room if n_room else 1.0


def _mixes_channels(node: NodeProto) -> bool:
    """Whether a node is a convolution of all its input channels."""
    return node.op_type == "Conv" and attribute(node, "group", 1) == 1


def _is_never_negative(node: NodeProto, view: GraphView) -> bool:
    if node.op_type != "Clip":
        return node.op_type == "Relu"
    low = view.constant(node.input[1]) if len(node.input) > 1 else None
    return low is not None and float(low.min()) >= 0


def calibrate(
    model: ModelProto, names: Sequence[str], feeds: Sequence[dict[str, Array]]
) -> dict[str, Quantization]:
    """The quantization of each value that loses least on `feeds`.

    Values that are never above 0 are left out.
    """
    watched = ModelProto()
    watched.CopyFrom(model)
    inputs = {v.name for v in model.graph.input}
    made = [name for name in names if name not in inputs]
    for name in made:
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    n_outputs = len(model.graph.output)
    session = SessionConfig(1).open(watched.SerializeToString(), name="the network to calibrate")
    rng = np.random.default_rng(0)
    samples: dict[str, list[Array]] = defaultdict(list)
    low, high = ({n: end * (n in inputs) for n in names} for end in (-1.0, 1.0))
    for one in feeds:
        values = dict(zip(made, run(session, one, "the network")[n_outputs:], strict=True)) | one
        for name in names:
            flat = values[name].reshape(-1)
            low[name] = min(low[name], float(flat.min(initial=0)))
            high[name] = max(high[name], float(flat.max(initial=0)))
            samples[name].append(rng.choice(flat, min(flat.size, _SAMPLE), replace=False))
    found = {n: _covering(low[n], high[n]) for n in names if n in inputs}
    return found | {n: _best(np.concatenate(samples[n]), high[n]) for n in made if high[n] > 0}


def _best(x: Array, high: float) -> Quantization:
    """The quantization of x, from 0 to `high`, with the least squared error."""
    candidates = [Quantization(scale, 0) for scale in _CLIPPED_AT * high / LEVELS]
    return min(candidates, key=lambda q: float(((q.round_trip(x) - x) ** 2).mean()))


def _covering(low: float, high: float) -> Quantization:
    """The quantization of anything from `low` to `high`; 0 lies between them."""
    return Quantization((high - low) / LEVELS, round(-low / (high - low) * LEVELS))


class _Insertion:
    """Inserts a QuantizeLinear and a DequantizeLinear after values of a model."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.taken = set(GraphView(self.graph).names)
        self.nodes: list[NodeProto] = []
        self.renamed: dict[str, str] = {}
        self.zero_points: dict[int, str] = {}

    def insert(self, found: dict[str, Quantization]) -> None:
        """Quantize these values; all their readers read the result."""
        for given in self.graph.input:
            if given.name in found:
                self._append_pair(given.name, found[given.name])
        for node in self.graph.node:
            node.input[:] = [self.renamed.get(name, name) for name in node.input]
            self.nodes.append(node)
            if node.output[0] in found:
                self._append_pair(node.output[0], found[node.output[0]])
        copies = [NodeProto.FromString(n.SerializeToString()) for n in self.nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)

    def _append_pair(self, value: str, quantization: Quantization) -> None:
        zero_point = quantization.zero_point
        if zero_point not in self.zero_points:
            self.zero_points[zero_point] = self._constant("zero_point", np.uint8(zero_point))
        scale = self._constant(f"{value}.scale", np.float32(quantization.scale))
        parameters = [scale, self.zero_points[zero_point]]
        q, back = (self._free(f"{value}.{end}") for end in ("bytes", "back"))
        self.nodes.append(helper.make_node("QuantizeLinear", [value, *parameters], [q]))
        self.nodes.append(helper.make_node("DequantizeLinear", [q, *parameters], [back]))
        self.renamed[value] = back

    def _constant(self, name: str, value: np.generic) -> str:
        tensor = numpy_helper.from_array(np.asarray(value), self._free(name))
        self.graph.initializer.append(tensor)
        return tensor.name

    def _free(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name
