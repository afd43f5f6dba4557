"""The graph that compaction works on: layers that mix channels, and nodes that pass them on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto

from fggp_deploy.errors import ModelFileError
from fggp_deploy.graph.constants import (
    constant_initializers,
    lift_constants_,
    unlist_initializers_,
)
from fggp_deploy.graph.shapes import infer_shapes, one_image
from fggp_deploy.graph.tensors import tensor_array
from fggp_deploy.graph.view import GraphView

Array = npt.NDArray[Any]
Needed = npt.NDArray[np.bool_]

MAX_CHANNELS = 1 << 20  # channels of a value; a value with more is left alone


@dataclass
class MixingLayer:
    """A node that mixes channels: y[o] = bias[o] + Σ_c weight[o, c, taps] · x[c].

    `weight` is [M, C, taps]; `safe` marks the taps that never read padding.
    """

    node: NodeProto
    weight: Array
    bias: Array
    safe: Needed
    x: str
    y: str

    def absorbs(self, constants: Array) -> Needed:
        """[M, C]: whether output o can take the constant input c into its bias, or needs none."""
        known = np.isfinite(constants)
        no_border = ~(self.weight[:, :, ~self.safe] != 0).any(axis=2)
        return known[None, :] & ((constants == 0)[None, :] | no_border)

    def wants(self, constants: Array) -> tuple[Needed, Needed]:
        """[M, C] twice: inputs that an output needs, and constant ones for which one can stand."""
        wanted = self.reads() & ~self.absorbs(constants)
        known = np.isfinite(constants)
        return wanted & ~known, wanted & known

    def reads(self) -> Needed:
        """[M, C]: whether output o has a weight for input c."""
        return (self.weight != 0).any(axis=2)


@dataclass
class Same:
    """A node whose channels are its inputs'.

    `parts` are (value, which of its channels each output channel is, −1 where none).
    """

    node: NodeProto
    y: str
    parts: list[tuple[str, npt.NDArray[np.int64]]] = field(default_factory=list)


class Graph:
    """A copy of a model, with the channels of its values: constants, and which are needed."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        unlist_initializers_(self.model)
        self.graph = self.model.graph
        self.shapes = infer_shapes(one_image(self.model))
        lift_constants_(self.graph)
        self.tensors = constant_initializers(self.graph)
        self.taken = GraphView(self.graph).names
        self.reshapes: list[NodeProto] = []  # to be written as [batch, the rest]
        self.readers = Counter(n for node in self.graph.node for n in node.input)
        self.const: dict[str, Array] = {}  # value → constant of each channel, NaN for none
        self.need: dict[str, Needed] = {}
        self.layers: list[MixingLayer] = []
        self.same: list[Same] = []
        self.pads: dict[str, tuple[int, int, int]] = {}  # a Pad's output → before, behind, rank
        self.params: dict[str, list[int]] = {}  # node output → inputs that are a value a channel

    def channels(self, name: str) -> int | None:
        """Size of axis 1 of a value; None if it is not known or too large."""
        shape = self.shapes.get(name)
        if name in self.tensors or shape is None or len(shape) < 2:
            return None
        n = shape[1]
        return n if n is not None and 0 < n <= MAX_CHANNELS else None

    def all_needed(self, name: str) -> None:
        """Keep every channel of a value, if it has channels."""
        n = self.channels(name) if name else None
        if n is not None:
            self.need[name] = np.ones(n, bool)

    def array(self, name: str) -> Array | None:
        """A float32 constant; None for any other value."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            return None
        return tensor_array(tensor)

    def constants(self, name: str) -> Array:
        """Constants of a value's channels, NaN if there is none."""
        n = self.channels(name)
        known = self.const.get(name)
        if n is None:
            raise ModelFileError(f"the channels of {name!r} are not known")
        return np.full(n, np.nan) if known is None else known

    def follow(
        self,
        node: NodeProto,
        parts: list[tuple[str, npt.NDArray[np.int64]]],
        params: Sequence[int] = (),
    ) -> None:
        """Enter a node whose output channels are those of its inputs."""
        for name, _ in parts:
            self.need.setdefault(name, np.zeros(len(self.constants(name)), bool))
        self.same.append(Same(node, node.output[0], parts))
        if params:
            self.params[node.output[0]] = list(params)
