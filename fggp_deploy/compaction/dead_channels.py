"""Compaction: removes dead channels from a graph. The outputs stay the same but for rounding.

The decision for each channel of each value depends on two facts. A channel may be constant, the
same number everywhere in every image, such as the output of a filter without weights. And it may be
needed, by a weight that reads it or by an operator that this package does not know. A channel that
is not needed is removed. A constant channel is removed if each layer that reads it can add its
contribution to the bias. This is impossible if a convolution pads with zeros and the constant is
not zero, because the border then differs from the middle. In that case one constant channel of the
value stays and takes over the contributions of the others: its weights become
Σ_c constant[c] / constant[one] · weight[:, c].

Constants are propagated forward through biases, batch norms, activations, sums and concatenations.
Needs are propagated backward to a fixed point, because an operator on two values needs the same
channels of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from fggp_deploy.compaction.graph import Array, Graph, MixingLayer, Needed
from fggp_deploy.compaction.operators import LOOKS
from fggp_deploy.graph.macs import model_macs
from fggp_deploy.graph.nodes import attributes, names_read_inside, set_attribute_
from fggp_deploy.graph.reading import reading

ALIGN = 4  # channels that ONNX Runtime's blocked convolutions want multiples of


@dataclass(frozen=True)
class Compaction:
    """The smaller model and what was removed.

    `channels` counts, by the layer's weight, output channels before and after, of the layers that
    lost some; `macs` dense multiply-accumulates for one image, before and after, None where shapes
    are not known.
    """

    model: ModelProto
    channels: dict[str, tuple[int, int]]
    macs: tuple[int | None, int | None]

    @property
    def n_removed(self) -> int:
        """Output channels of layers that are gone."""
        return sum(before - after for before, after in self.channels.values())


def compact(model: ModelProto, *, align: int = ALIGN) -> Compaction:
    """The model without the channels that no output depends on, equal but for rounding.

    Enough dead channels stay that a value's number of channels is a multiple of `align`, or is
    unchanged. ONNX Runtime's fast convolutions on a CPU take no others: with 63 channels instead of
    64, one took 1.4 times as long (benchmarks/bench_compaction.py). `align=1` removes all.

    Requires standard operators; anything that is not known is left alone, with all channels that it
    reads and makes. Raises ModelFileError for a graph that contradicts itself.
    """
    with reading("the graph"):
        return _Compactor(model).run(align)


class _Compactor(Graph):
    """One compaction of one model."""

    def run(self, align: int) -> Compaction:
        """Look at every node once, spread what is needed, and cut."""
        for name in (*(v.name for v in self.graph.input), *names_read_inside(self.graph)):
            self.all_needed(name)
        for node in self.graph.node:
            if not self._known(node):
                for name in (*node.input, *node.output):
                    self.all_needed(name)
        for value in self.graph.output:
            self.all_needed(value.name)
        while self._spread() or self._keep_one() or self._round_up(align):
            pass
        before = model_macs(self.model)
        if all(need.all() for need in self.need.values()):
            return Compaction(self.model, {}, (before, before))
        channels = self._cut()
        self._write_constants()
        return Compaction(self.model, channels, (before, model_macs(self.model)))

    def _known(self, node: NodeProto) -> bool:
        """Enter a node that is understood; False for any other."""
        if node.domain not in ("", "ai.onnx") or not node.output:
            return False
        look = LOOKS.get(node.op_type)
        n = self.channels(node.output[0])
        if look is None or n is None or len([o for o in node.output if o]) != 1:
            return False
        constants = look(self, node, n)
        if constants is None:
            return False
        self.const[node.output[0]] = constants
        self.need.setdefault(node.output[0], np.zeros(n, bool))
        return True

    # what is needed

    def _spread(self) -> bool:
        """One round of needs; whether anything was new."""
        before = sum(int(need.sum()) for need in self.need.values())
        for layer in reversed(self.layers):
            out = self.need[layer.y]
            constants = self.constants(layer.x)
            wanted, shared = layer.wants(constants)
            self.need[layer.x] |= wanted[out].any(axis=0)
            if shared[out].any():
                self.need[layer.x][_representative(constants)] = True
        for same in reversed(self.same):
            out = self.need[same.y]
            for name, source in same.parts:
                real = source >= 0
                np.logical_or.at(self.need[name], source[real], out[real])
            for name, source in same.parts:
                real = source >= 0
                out[real] |= self.need[name][source[real]]
        return sum(int(need.sum()) for need in self.need.values()) > before

    def _keep_one(self) -> bool:
        """No value may be empty: keep a channel of the first that is; whether there was one."""
        for need in self.need.values():
            if not need.any():
                need[0] = True
                return True
        return False

    def _round_up(self, align: int) -> bool:
        """Keep more of the first value that has no multiple of `align`; whether there was one."""
        for need in self.need.values():
            dead = np.flatnonzero(~need)[: -int(need.sum()) % align]
            if len(dead):
                need[dead] = True
                return True
        return False

    # cutting

    def _cut(self) -> dict[str, tuple[int, int]]:
        """Rewrite the nodes; channels before and after of the layers that lost some."""
        found: dict[str, tuple[int, int]] = {}
        for layer in self.layers:
            self._cut_layer(layer)
            out = self.need[layer.y]
            if not out.all():
                found[layer.node.input[1]] = (len(out), int(out.sum()))
        for same in self.same:
            kept = self.need[same.y]
            if kept.all():
                continue
            for index in self.params.get(same.y, []):
                self._cut_parameter(same.node, index, kept)
            if same.node.op_type == "Conv":
                found[same.node.input[1]] = (len(kept), int(kept.sum()))
                set_attribute_(same.node, "group", int(kept.sum()))
            if same.y in self.pads:
                self._cut_pad(same.node, kept)
        for node in self.reshapes:
            self._replace(node, 1, np.array([0, -1]))
            if attributes(node).get("allowzero", 0):
                set_attribute_(node, "allowzero", 0)
        return found

    def _cut_layer(self, layer: MixingLayer) -> None:
        out, used = self.need[layer.y], self.need[layer.x]
        if out.all() and used.all():
            return
        constants = self.constants(layer.x)
        gone = ~used & np.isfinite(constants)
        shared = gone & layer.wants(constants)[1][out].any(axis=0)
        absorbed = gone & ~shared
        w = layer.weight.astype(np.float64)
        bias = layer.bias.astype(np.float64)
        bias = bias + w[:, absorbed].sum(axis=2) @ constants[absorbed]
        node = layer.node
        stored = self.array(node.input[1])
        assert stored is not None  # _conv and _linear have seen it
        if shared.any():
            one = _representative(constants)
            w[:, one] += np.tensordot(w[:, shared], constants[shared] / constants[one], (1, 0))
            stored = w.reshape(stored.shape).astype(np.float32)
        if node.op_type == "Conv" or attributes(node).get("transB", 0):
            cut = stored[out][:, used]
        else:
            cut = stored[used][:, out]
        bias32 = bias[out].astype(np.float32)
        self._replace(node, 1, cut)
        if node.op_type == "MatMul" and bias32.any():
            node.op_type = "Gemm"
        if node.op_type == "MatMul":
            return
        if len(node.input) > 2 and node.input[2]:
            self._replace(node, 2, bias32)
        elif bias32.any():
            del node.input[2:]
            node.input.append(f"{layer.y}.bias")
            self._replace(node, 2, bias32)

    def _cut_pad(self, node: NodeProto, kept: Needed) -> None:
        before, after, rank = self.pads[node.output[0]]
        pads = np.zeros(2 * rank, np.int64)
        pads[1] = kept[:before].sum()
        pads[1 + rank] = kept[len(kept) - after :].sum()
        self._replace(node, 1, pads)
        del node.input[2:]  # a zero, and axes that all are there now

    def _cut_parameter(self, node: NodeProto, index: int, kept: Needed) -> None:
        value = self.array(node.input[index])
        assert value is not None  # its look has seen it
        axis = next(i for i, d in enumerate(value.shape) if d == len(kept))
        if node.op_type == "Conv":
            axis = 0
        self._replace(node, index, np.compress(kept, value, axis=axis))

    def _replace(self, node: NodeProto, index: int, value: Array) -> None:
        """Give an input of a node a constant of its own."""
        old = name = node.input[index]
        if self.readers[old] != 1:  # shared, or new
            self.readers[old] -= 1
            name = f"{old}.{node.output[0]}" if old in self.tensors else old
            while name in self.taken or name in self.tensors:
                name += "_"
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.tensors[name] = tensor
        node.input[index] = name

    def _write_constants(self) -> None:
        """Put the constants that are still read into the graph, in place of the old ones."""
        graph = self.graph
        read = {name for n in graph.node for name in n.input} | set(names_read_inside(graph))
        read |= {v.name for v in graph.output}
        given = {v.name for v in graph.input}
        kept = [_copied(t) for t in graph.initializer if t.name in given]
        kept += [_copied(t) for name, t in self.tensors.items() if name in read]
        del graph.initializer[:], graph.value_info[:]
        graph.initializer.extend(kept)


def _representative(constants: Array) -> int:
    """The constant channel that stands for the others: that of the largest magnitude."""
    return int(np.argmax(np.where(np.isfinite(constants), np.abs(constants), -1)))


def _copied(tensor: onnx.TensorProto) -> onnx.TensorProto:
    out = onnx.TensorProto()
    out.CopyFrom(tensor)
    return out
