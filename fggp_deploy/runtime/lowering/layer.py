"""A layer: nodes of a graph that become steps of a kernel program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from onnx import NodeProto

from fggp_deploy.graph.macs import multiply_accumulates
from fggp_deploy.kernels.program import Step
from fggp_deploy.runtime.lowering.shaped_graph import ShapedGraph

Array = npt.NDArray[Any]


@dataclass
class LoweredLayer:
    """Nodes that become one or two steps.

    `inputs` are the values that they read, `output` is the one that they make. The steps read each
    other in order; the numbers of their values and constants follow when the region is built. The
    first `n_weighted` nodes are one operator with `weight` and `bias`: a Conv or a Gemm, or what
    can be written as one.

    With `on_rows`, the values hold vectors in their last dimension, such as [batch, tokens,
    features]: the steps see one row of features for each token. Without, they are planes
    [batch, channels, height, width] or vectors [batch, features].
    """

    nodes: list[NodeProto]
    inputs: list[str]
    output: str
    steps: list[Step]
    weight: Array | None = None
    bias: Array | None = None
    n_weighted: int = 0
    on_rows: bool = False

    @property
    def learned(self) -> Array | None:
        """The weight if the network learned it: that of a convolution or a linear layer."""
        return self.weight if self.nodes[0].op_type in ("Conv", "Gemm", "MatMul") else None

    def macs(self, made: Sequence[int]) -> int:
        """Dense multiply-accumulates if its first node makes a value of shape `made`.

        0 for a layer without a learned weight.
        """
        if self.learned is None:
            return 0
        return multiply_accumulates(made, self.learned.shape[1:]) or 0

    @classmethod
    def of(cls, node: NodeProto, *steps: Step) -> LoweredLayer:
        """A single node without weights, which reads its first input."""
        return cls([node], [node.input[0]], node.output[0], list(steps))

    @classmethod
    def with_weight(
        cls, nodes: list[NodeProto], step: Step, weight: Array, bias: Array
    ) -> LoweredLayer:
        """Nodes in a row that are one operator with this weight and bias."""
        inputs, output = [nodes[0].input[0]], nodes[-1].output[0]
        return cls(nodes, inputs, output, [step], weight, bias, len(nodes))


Matcher = Callable[[NodeProto, ShapedGraph], LoweredLayer | None]
