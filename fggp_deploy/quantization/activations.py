"""Activations as bytes: where they are rounded, and to what, in standard ONNX operators.

Behind a Relu (or a Clip from 0) whose value convolutions read stand a QuantizeLinear and a
DequantizeLinear of uint8 with zero point 0, and behind an input that they read two with a zero
point of its own. A runtime that knows nothing of it computes the rounded network in floats; kernels
that find such a value before a convolution with int8 values multiply bytes.
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
from fggp_deploy.graph.constants import constant_initializers, overridable
from fggp_deploy.graph.nodes import attributes
from fggp_deploy.measure.evaluation_data import calibration_images
from fggp_deploy.runtime.sessions import Options, run

Array = npt.NDArray[Any]
LEVELS = 255
FULL = 0.7  # users hear of blocks that hold a smaller share of non-zeros
# Shares of the largest value at which a range may end.
_ENDS = np.linspace(0.2, 1.0, 33)
_BATCH = 32  # calibration images at once
_SAMPLE = 65_536  # values of one activation of one batch that its range is chosen by


def in_bytes(
    dense: ModelProto, data: Dataset | None, preprocessing: Preprocessing
) -> tuple[ModelProto, list[str]]:
    """`rounded` by the training images of `data`, and what to tell the user.

    Raises DataError where there are no such images, ConfigError as `rounded`.
    """
    if data is None or not len(data.train):
        raise DataError("there are no training images to find the ranges of activations on; --data")
    images, name = calibration_images(data, preprocessing), dense.graph.input[0].name
    feeds = [{name: images[i : i + _BATCH]} for i in range(0, len(images), _BATCH)]
    model, where = rounded(dense, feeds)
    n = len(where) - (name in where)
    what = f"the input and {n} activations are" if name in where else f"{n} activations are"
    notes = [f"{what} bytes, by {len(images)} training images"]
    if (share := fill(dense)) < FULL:
        notes.append(
            f"blocks of four inputs that are left hold {share:.0%} non-zeros, so the kernels "
            "multiply zeros; prune with --pattern 1x4 for their full speed"
        )
    return model, notes


def rounded(dense: ModelProto, feeds: Sequence[dict[str, Array]]) -> tuple[ModelProto, list[str]]:
    """The network with byte activations, and the names of the values that are rounded.

    Of each value the range is the one with the least squared error on `feeds`, inputs as the
    network takes them; that of an input is all of theirs and the self-test's ±1. Raises
    ConfigError where no activation can be, or none is ever above 0.
    """
    names = candidates(dense)
    if not names:
        raise ConfigError(
            "no convolution reads the output of a Relu, so there are no activations to round"
        )
    found = roundings(dense, [*inputs(dense), *names], feeds)
    if not any(n in found for n in names):
        raise ConfigError("every activation is 0 on the calibration images")
    model = ModelProto()
    model.CopyFrom(dense)
    _insert(model, found)
    return model, list(found)


def inputs(model: ModelProto) -> list[str]:
    """Inputs that a convolution of all channels reads, and nothing else does."""
    defaults = overridable(model.graph)
    readers = [(name, node) for node in model.graph.node for name in node.input]
    return [
        v.name
        for v in model.graph.input
        if v.name not in defaults
        and (nodes := [node for name, node in readers if name == v.name])
        and all(_mixes_channels(node) for node in nodes)
    ]


def candidates(model: ModelProto) -> list[str]:
    """Values from 0 that a convolution of all channels reads, maybe behind a MaxPool."""
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input[:1]:
            readers[name].append(node)
    known = constant_initializers(model.graph)

    def multiplied(value: str) -> bool:
        return any(
            _mixes_channels(node) or (node.op_type == "MaxPool" and multiplied(node.output[0]))
            for node in readers[value]
        )

    kept = {v.name for v in model.graph.output}
    found = []
    for node in model.graph.node:
        value = node.output[0]
        if _from_zero(node, known) and value not in kept and multiplied(value):
            found.append(value)
    return found


def fill(model: ModelProto) -> float:
    """The share of non-zeros in the blocks of four input channels that hold any; 1 without such.

    Over convolutions of all channels that have some zeros, but those of fewer than four inputs.
    """
    n_kept = n_room = 0
    weights = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if not _mixes_channels(node) or node.input[1] not in weights:
            continue
        w = numpy_helper.to_array(weights[node.input[1]]) != 0
        if w.shape[1] % 4 or w.all():
            continue
        blocks = w.reshape(w.shape[0], w.shape[1] // 4, 4, -1).sum(2)
        n_kept += int(blocks.sum())
        n_room += 4 * int((blocks > 0).sum())
    return n_kept / n_room if n_room else 1.0


def _mixes_channels(node: NodeProto) -> bool:
    """Whether a node is a convolution of all its input channels."""
    return node.op_type == "Conv" and attributes(node).get("group", 1) == 1


def _from_zero(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    if node.op_type != "Clip":
        return node.op_type == "Relu"
    low = constants.get(node.input[1]) if len(node.input) > 1 else None
    return low is not None and float(numpy_helper.to_array(low).min()) >= 0


@dataclass(frozen=True)
class Rounding:
    """A value as bytes: `unit`·(byte − `zero`)."""

    unit: float
    zero: int

    def of(self, x: Array) -> Array:
        """What is left of x."""
        bytes_ = np.clip(np.rint(x / self.unit) + self.zero, 0, LEVELS)
        return self.unit * (bytes_ - self.zero)


def roundings(
    model: ModelProto, names: Sequence[str], feeds: Sequence[dict[str, Array]]
) -> dict[str, Rounding]:
    """How each value loses least on `feeds`; values that are never above 0 are left out."""
    watched = ModelProto()
    watched.CopyFrom(model)
    given = {v.name for v in model.graph.input}
    made = [name for name in names if name not in given]
    for name in made:
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    n_outputs = len(model.graph.output)
    session = Options(1).open(watched.SerializeToString(), name="the network to calibrate")
    rng = np.random.default_rng(0)
    samples: dict[str, list[Array]] = defaultdict(list)
    low, high = ({n: end * (n in given) for n in names} for end in (-1.0, 1.0))
    for one in feeds:
        values = dict(zip(made, run(session, one, "the network")[n_outputs:], strict=True)) | one
        for name in names:
            flat = values[name].reshape(-1)
            low[name] = min(low[name], float(flat.min(initial=0)))
            high[name] = max(high[name], float(flat.max(initial=0)))
            samples[name].append(rng.choice(flat, min(flat.size, _SAMPLE), replace=False))
    found = {n: _covering(low[n], high[n]) for n in names if n in given}
    return found | {n: _best(np.concatenate(samples[n]), high[n]) for n in made if high[n] > 0}


def _best(x: Array, high: float) -> Rounding:
    """The rounding of x, from 0 to `high`, with the least squared error."""
    every = [Rounding(unit, 0) for unit in _ENDS * high / LEVELS]
    return min(every, key=lambda r: float(((r.of(x) - x) ** 2).mean()))


def _covering(low: float, high: float) -> Rounding:
    """The rounding of anything from `low` to `high`, 0 among them."""
    return Rounding((high - low) / LEVELS, round(-low / (high - low) * LEVELS))


def _insert(model: ModelProto, found: dict[str, Rounding]) -> None:
    """Put both nodes behind each value; all its readers read what they make of it."""
    taken = {n for node in model.graph.node for n in (*node.input, *node.output)}
    nodes: list[NodeProto] = []
    renamed: dict[str, str] = {}
    zeros: dict[int, str] = {}

    def constant(name: str, value: Array) -> str:
        model.graph.initializer.append(numpy_helper.from_array(value, _free(name, taken)))
        return model.graph.initializer[-1].name

    def insert(value: str) -> None:
        rounding = found[value]
        if rounding.zero not in zeros:
            zeros[rounding.zero] = constant("zero_point", np.array(rounding.zero, np.uint8))
        scale = constant(f"{value}.scale", np.array(rounding.unit, np.float32))
        whole, back = (_free(f"{value}.{e}", taken) for e in ("bytes", "back"))
        by = [scale, zeros[rounding.zero]]
        nodes.append(helper.make_node("QuantizeLinear", [value, *by], [whole]))
        nodes.append(helper.make_node("DequantizeLinear", [whole, *by], [back]))
        renamed[value] = back

    for given in model.graph.input:
        if given.name in found:
            insert(given.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
        if node.output[0] in found:
            insert(node.output[0])
    copies = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
