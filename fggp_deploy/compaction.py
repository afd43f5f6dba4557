"""Exact removal of channels that a mask killed: the same network in fewer channels.

Two facts about each channel of each value decide. It may be constant, the same number everywhere
in every image, as the output of a filter without weights is; and it may be needed, by a weight that
reads it or by an operator that this file does not know. A channel that nobody needs is removed, and
so is a constant one whose readers can take its contribution into their bias. That they cannot
where a convolution pads with zeros and the constant is none: there the border differs from the
middle. Then one constant channel of the value stays, and takes over what the others contribute: its
weights become Σ_c constant[c] / constant[one] · weight[:, c].

Constants go forward through biases, batch norms, activations, sums and concatenations; needs go
backward to a fixed point, because an operator on two values needs the same channels of both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.onnx_lifting import names_read_inside
from fggp_deploy.onnx_reading import infer_shapes, one_image, reading, tensor_array

Array = npt.NDArray[Any]
Needed = npt.NDArray[np.bool_]

ALIGN = 4  # channels that ONNX Runtime's blocked convolutions want multiples of
MAX_CHANNELS = 1 << 20  # of a value; one that claims more is left alone
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
_BINARY = ("Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class Compaction:
    """The smaller model and what it lost.

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

    Of a value's dead channels so many stay that their number is a multiple of `align`, or what it
    was: ONNX Runtime's fast convolutions on a CPU take no others, and what they save on 63 of 64
    channels costs them half as much again. 1 removes all.

    Requires standard operators; anything that is not known is left alone, with all channels that it
    reads and makes. Raises ModelFileError for a graph that contradicts itself.
    """
    with reading("the graph"):
        return _Compactor(model).run(align)


def dense_macs(model: ModelProto) -> int | None:
    """Multiply-accumulates of convolutions and linear layers for one image, zeros counted."""
    shapes = infer_shapes(one_image(model))
    constants = {t.name: tuple(t.dims) for t in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in constants:
            continue
        out, w = shapes.get(node.output[0]), constants[node.input[1]]
        if out is None or None in out or not w:
            return None
        sides = math.prod(d for d in out if d is not None)
        if node.op_type == "Conv":
            total += sides * math.prod(w[1:])
        else:
            transposed = _attributes(node).get("transB", 0)
            total += sides * (w[-1] if transposed else w[-2] if len(w) > 1 else w[0])
    return total


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


@dataclass
class _Layer:
    """A node that mixes channels: y[o] = bias[o] + Σ_c weight[o, c, taps] · x[c].

    `weight` is [M, C, taps]; `safe` tells the taps that never read padding.
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
class _Same:
    """A node whose channels are its inputs'.

    `parts` are (value, which of its channels each output channel is, −1 where none).
    """

    node: NodeProto
    y: str
    parts: list[tuple[str, npt.NDArray[np.int64]]] = field(default_factory=list)


class _Compactor:
    """One compaction of one model."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.shapes = infer_shapes(one_image(model))
        _lift_constants_(self.graph)
        given = {v.name for v in self.graph.input}
        self.tensors = {t.name: t for t in self.graph.initializer if t.name not in given}
        self.taken = {name for n in self.graph.node for name in (*n.input, *n.output)}
        self.reshapes: list[NodeProto] = []  # to be said as [batch, the rest]
        self.readers = Counter(n for node in self.graph.node for n in node.input)
        self.const: dict[str, Array] = {}  # value → constant of each channel, NaN for none
        self.need: dict[str, Needed] = {}
        self.layers: list[_Layer] = []
        self.same: list[_Same] = []
        self.pads: dict[str, tuple[int, int, int]] = {}  # a Pad's output → before, behind, rank
        self.params: dict[str, list[int]] = {}  # node output → inputs that are a value a channel

    def run(self, align: int) -> Compaction:
        """Look at every node once, spread what is needed, and cut."""
        for name in (*(v.name for v in self.graph.input), *names_read_inside(self.graph)):
            self._all_needed(name)
        for node in self.graph.node:
            if not self._known(node):
                for name in (*node.input, *node.output):
                    self._all_needed(name)
        for value in self.graph.output:
            self._all_needed(value.name)
        while self._spread() or self._keep_one() or self._round_up(align):
            pass
        before = dense_macs(self.model)
        if all(need.all() for need in self.need.values()):
            return Compaction(self.model, {}, (before, before))
        channels = self._cut()
        self._write_constants()
        return Compaction(self.model, channels, (before, dense_macs(self.model)))

    def _known(self, node: NodeProto) -> bool:
        """Enter a node that is understood; False for any other."""
        if node.domain not in ("", "ai.onnx") or not node.output:
            return False
        look = _LOOKS.get(node.op_type)
        n = self._channels(node.output[0])
        if look is None or n is None or len([o for o in node.output if o]) != 1:
            return False
        constants = look(self, node, n)
        if constants is None:
            return False
        self.const[node.output[0]] = constants
        self.need.setdefault(node.output[0], np.zeros(n, bool))
        return True

    def _channels(self, name: str) -> int | None:
        """Channels of a value, axis 1 of at least two; None where that is not known, or absurd."""
        shape = self.shapes.get(name)
        if name in self.tensors or shape is None or len(shape) < 2:
            return None
        n = shape[1]
        return n if n is not None and 0 < n <= MAX_CHANNELS else None

    def _all_needed(self, name: str) -> None:
        n = self._channels(name) if name else None
        if n is not None:
            self.need[name] = np.ones(n, bool)

    def _array(self, name: str) -> Array | None:
        """A float32 constant; None for what is none."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            return None
        return tensor_array(tensor)

    def _constants(self, name: str) -> Array:
        """Constants of a value's channels, NaN where there is none."""
        n = self._channels(name)
        known = self.const.get(name)
        if n is None:
            raise ModelFileError(f"the channels of {name!r} are not known")
        return np.full(n, np.nan) if known is None else known

    # what is needed

    def _spread(self) -> bool:
        """One round of needs; whether anything was new."""
        before = sum(int(need.sum()) for need in self.need.values())
        for layer in reversed(self.layers):
            out = self.need[layer.y]
            constants = self._constants(layer.x)
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
                _set(same.node, "group", int(kept.sum()))
            if same.y in self.pads:
                self._cut_pad(same.node, kept)
        for node in self.reshapes:
            self._replace(node, 1, np.array([0, -1]))
            if _attributes(node).get("allowzero", 0):
                _set(node, "allowzero", 0)
        return found

    def _cut_layer(self, layer: _Layer) -> None:
        out, used = self.need[layer.y], self.need[layer.x]
        if out.all() and used.all():
            return
        constants = self._constants(layer.x)
        gone = ~used & np.isfinite(constants)
        shared = gone & layer.wants(constants)[1][out].any(axis=0)
        absorbed = gone & ~shared
        w = layer.weight.astype(np.float64)
        bias = layer.bias.astype(np.float64)
        bias = bias + w[:, absorbed].sum(axis=2) @ constants[absorbed]
        node = layer.node
        stored = self._array(node.input[1])
        assert stored is not None  # _conv and _linear have seen it
        if shared.any():
            one = _representative(constants)
            w[:, one] += np.tensordot(w[:, shared], constants[shared] / constants[one], (1, 0))
            stored = w.reshape(stored.shape).astype(np.float32)
        if node.op_type == "Conv" or _attributes(node).get("transB", 0):
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
        value = self._array(node.input[index])
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


def _lift_constants_(graph: onnx.GraphProto) -> None:
    """Constant nodes of tensors become initializers; not where the graph gives one back."""
    outputs = {v.name for v in graph.output}
    for i in reversed(range(len(graph.node))):
        node = graph.node[i]
        if node.op_type != "Constant" or node.domain or node.output[0] in outputs:
            continue
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if value is not None:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            del graph.node[i]


def _set(node: NodeProto, key: str, value: int) -> None:
    kept = [a for a in node.attribute if a.name != key]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(key, value)])


# What each operator does to constants; None where it is not understood as it stands.


def _conv(c: _Compactor, node: NodeProto, n: int) -> Array | None:
    w = c._array(node.input[1])
    a, x = _attributes(node), node.input[0]
    n_in = c._channels(x)
    if w is None or w.ndim < 3 or n_in is None or w.shape[0] != n:
        return None
    bias = np.zeros(n, np.float32)
    if len(node.input) > 2 and node.input[2]:
        stored = c._array(node.input[2])
        if stored is None or stored.shape != (n,):
            return None
        bias = stored
    safe = _safe_taps(a, w.shape[2:])
    group = a.get("group", 1)
    if group == 1 and w.shape[1] == n_in:
        flat = w.reshape(n, n_in, -1)
        layer = _Layer(node, flat, bias, safe, x, node.output[0])
        c.layers.append(layer)
        c.need.setdefault(x, np.zeros(n_in, bool))
        return _mixed(layer, c._constants(x))
    if group == n_in and w.shape[1] == 1 and n == n_in:
        return _depthwise(c, node, w.reshape(n, -1), bias, safe)
    return None


def _depthwise(c: _Compactor, node: NodeProto, w: Array, bias: Array, safe: Needed) -> Array | None:
    x = node.input[0]
    n = len(w)
    given = c._constants(x)
    known = np.isfinite(given) & ((given == 0) | ~(w[:, ~safe] != 0).any(axis=1))
    known |= ~w.any(axis=1)
    _follow(c, node, [(x, np.arange(n))], params=[1, 2] if len(node.input) > 2 else [1])
    total = bias + w.sum(axis=1, dtype=np.float64) * np.where(np.isfinite(given), given, 0)
    return np.where(known, total, np.nan)


def _safe_taps(a: dict[str, Any], kernel: tuple[int, ...]) -> Needed:
    """Which taps of a window never read padding, flat; with unknown pads none does."""
    if a.get("auto_pad", b"NOTSET") == b"VALID":
        return np.ones(math.prod(kernel), bool)
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        return np.zeros(math.prod(kernel), bool)
    pads = a.get("pads", [0] * (2 * len(kernel)))
    dilations = a.get("dilations", [1] * len(kernel))
    safe = np.ones(kernel, bool)
    for axis, (k, d) in enumerate(zip(kernel, dilations, strict=True)):
        taps = np.arange(k) * d
        one = (taps >= pads[axis]) & (d * (k - 1) - taps >= pads[axis + len(kernel)])
        safe &= one.reshape([-1 if i == axis else 1 for i in range(len(kernel))])
    return safe.reshape(-1)


def _mixed(layer: _Layer, given: Array) -> Array:
    """Constants behind a layer: of outputs whose every weight reads a constant that it absorbs."""
    free = ~layer.reads() | layer.absorbs(given)
    sums = layer.weight.sum(axis=2, dtype=np.float64)
    total = layer.bias + sums @ np.where(np.isfinite(given), given, 0)
    constants: Array = np.where(free.all(axis=1), total, np.nan)
    return constants


def _linear(c: _Compactor, node: NodeProto, n: int) -> Array | None:
    """Gemm and MatMul of a matrix [batch, C]."""
    w, x = c._array(node.input[1]), node.input[0]
    a, n_in = _attributes(node), c._channels(x)
    if w is None or w.ndim != 2 or n_in is None or len(c.shapes.get(x, ())) != 2:
        return None
    if a.get("transA", 0) or a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0:
        return None
    rows = w if a.get("transB", 0) else w.T
    if rows.shape != (n, n_in):
        return None
    bias = np.zeros(n, np.float32)
    if len(node.input) > 2 and node.input[2]:
        stored = c._array(node.input[2])
        if stored is None or stored.shape not in ((n,), (1, n)):
            return None
        bias = stored.reshape(-1)
    safe = np.ones(1, bool)
    layer = _Layer(node, rows[:, :, None], bias, safe, x, node.output[0])
    c.layers.append(layer)
    c.need.setdefault(x, np.zeros(n_in, bool))
    return _mixed(layer, c._constants(x))


def _follow(
    c: _Compactor,
    node: NodeProto,
    parts: list[tuple[str, npt.NDArray[np.int64]]],
    params: list[int] | None = None,
) -> None:
    """Enter a node whose output channels are those of its inputs."""
    for name, _ in parts:
        c.need.setdefault(name, np.zeros(len(c._constants(name)), bool))
    c.same.append(_Same(node, node.output[0], parts))
    if params:
        c.params[node.output[0]] = params


def _unary(f: Callable[[Array, dict[str, Any]], Array]) -> Callable[..., Array | None]:
    def look(c: _Compactor, node: NodeProto, n: int) -> Array | None:
        if len(node.input) != 1 or c._channels(node.input[0]) != n:
            return None
        _follow(c, node, [(node.input[0], np.arange(n))])
        with np.errstate(invalid="ignore", over="ignore"):
            return f(c._constants(node.input[0]), _attributes(node))

    return look


def _clip(c: _Compactor, node: NodeProto, n: int) -> Array | None:
    limits = [-np.inf, np.inf]
    for i, name in enumerate(node.input[1:3]):
        if name:
            value = c._array(name)
            if value is None or value.size != 1:
                return None
            limits[i] = float(value.reshape(-1)[0])
    if node.attribute or c._channels(node.input[0]) != n:
        return None
    _follow(c, node, [(node.input[0], np.arange(n))])
    return np.minimum(np.maximum(c._constants(node.input[0]), limits[0]), limits[1])


def _batch_norm(c: _Compactor, node: NodeProto, n: int) -> Array | None:
    a = _attributes(node)
    numbers = [c._array(name) for name in node.input[1:5]]
    if c._channels(node.input[0]) != n or a.get("training_mode", 0) or len(numbers) != 4:
        return None
    if any(p is None or p.shape != (n,) for p in numbers):
        return None
    scale, shift, mean, variance = (np.asarray(p, np.float64) for p in numbers)
    _follow(c, node, [(node.input[0], np.arange(n))], params=[1, 2, 3, 4])
    given = c._constants(node.input[0])
    return (given - mean) / np.sqrt(variance + a.get("epsilon", 1e-5)) * scale + shift


def _binary(c: _Compactor, node: NodeProto, n: int) -> Array | None:
    """Of two values of one width, or of a value and a number for each channel or one for all."""
    operands, parts, params = [], [], []
    rank = len(c.shapes.get(node.output[0], ()))
    for i, name in enumerate(node.input):
        value = c._array(name)
        if value is None:
            shape = c.shapes.get(name, ())
            if c._channels(name) != n or len(shape) != rank:
                return None
            parts.append((name, np.arange(n)))
            operands.append(c._constants(name))
            continue
        aligned = (1,) * (rank - value.ndim) + value.shape
        if value.ndim > rank or any(d != 1 for k, d in enumerate(aligned) if k != 1):
            return None
        if value.size not in (1, n):
            return None
        if n == 1 or value.size == n:
            params.append(i)
        operands.append(np.broadcast_to(value.reshape(-1).astype(np.float64), n))
    if not parts:
        return None
    _follow(c, node, parts, params)
    a, b = operands
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        result = {"Add": a + b, "Sub": a - b, "Mul": a * b, "Div": a / b}[node.op_type]
    if node.op_type == "Mul":
        result = np.where((a == 0) | (b == 0), 0.0, result)
    return np.where(np.isfinite(result), result, np.nan)


def _concat(c: _Compactor, node: NodeProto, n: int) -> Array | None:
    rank = len(c.shapes.get(node.output[0], ()))
    widths = [c._channels(name) for name in node.input]
    if _attributes(node).get("axis") not in (1, 1 - rank) or None in widths:
        return None
    if sum(w or 0 for w in widths) != n:
        return None
    parts, start = [], 0
    for name, width in zip(node.input, widths, strict=True):
        assert width is not None  # seen above
        source = np.full(n, -1)
        source[start : start + width] = np.arange(width)
        parts.append((name, source))
        start += width
    _follow(c, node, parts)
    return np.concatenate([c._constants(name) for name in node.input])


def _pool(c: _Compactor, node: NodeProto, n: int) -> Array | None:
    """Poolings: a constant stays what it is, unless padding is counted as zeros."""
    a, x = _attributes(node), node.input[0]
    if c._channels(x) != n or len(c.shapes.get(x, ())) < 3:
        return None
    if node.op_type == "ReduceMean":
        axes = a.get("axes")
        if axes is None and len(node.input) > 1 and node.input[1] in c.tensors:
            axes = tensor_array(c.tensors[node.input[1]]).tolist()
        rank = len(c.shapes[x])
        if axes is None or sorted(i % rank for i in axes) != list(range(2, rank)):
            return None
    _follow(c, node, [(x, np.arange(n))])
    given = c._constants(x)
    dilated = any(d != 1 for d in a.get("dilations", ()))
    plain = (
        not a.get("ceil_mode", 0)
        and not dilated
        and a.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    )
    padded = any(a.get("pads", ())) or not plain
    counts = node.op_type == "AveragePool" and (a.get("count_include_pad", 0) or not plain)
    if (padded and counts) or (node.op_type == "MaxPool" and not plain):
        return np.where(given == 0, 0.0, np.nan) if counts else np.full(n, np.nan)
    return given


def _flatten(c: _Compactor, node: NodeProto, n: int) -> Array | None:
    """Flatten, and a Reshape to [batch, -1]: a channel becomes as many as its plane has places."""
    x = node.input[0]
    width = c._channels(x)
    if width is None or n % width or len(c.shapes.get(node.output[0], ())) != 2:
        return None
    if node.op_type == "Flatten":
        if _attributes(node).get("axis", 1) != 1:
            return None
    else:
        tensor = c.tensors.get(node.input[1])
        wanted = None if tensor is None else tensor_array(tensor).tolist()
        if wanted not in ([0, -1], [0, n], [-1, n]):
            return None
        if 0 in wanted and _attributes(node).get("allowzero", 0):
            return None
        if None in c.shapes[x] or math.prod(d or 0 for d in c.shapes[x][1:]) != n:
            return None
        c.reshapes.append(node)
    source = np.repeat(np.arange(width), n // width)
    _follow(c, node, [(x, source)])
    return c._constants(x)[source]


def _integers(c: _Compactor, node: NodeProto, index: int) -> list[int] | None:
    """A constant input of whole numbers; None where it is absent or no constant."""
    tensor = c.tensors.get(node.input[index]) if len(node.input) > index else None
    return None if tensor is None else [int(i) for i in tensor_array(tensor).reshape(-1)]


def _slice(c: _Compactor, node: NodeProto, n: int) -> Array | None:
    """A Slice of planes, whatever it takes of them."""
    x, axes = node.input[0], _integers(c, node, 3)
    rank = len(c.shapes.get(x, ()))
    if c._channels(x) != n or axes is None or any(a % rank < 2 for a in axes):
        return None
    _follow(c, node, [(x, np.arange(n))])
    return c._constants(x)


def _pad(c: _Compactor, node: NodeProto, n: int) -> Array | None:
    """Channels of zeros before and behind, as ResNets for small images have in their shortcuts."""
    x, pads = node.input[0], _integers(c, node, 1)
    rank, width = len(c.shapes.get(x, ())), c._channels(x)
    if pads is None or width is None or _attributes(node).get("mode", b"constant") != b"constant":
        return None
    fill = c._array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    axes = _integers(c, node, 3)
    if len(node.input) > 3 and node.input[3] and axes is None:
        return None
    axes = [a % rank for a in axes] if axes is not None else list(range(rank))
    if fill is None or fill.any() or len(pads) != 2 * len(axes) or len(set(axes)) < len(axes):
        return None
    both = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    before, after = both.pop(1, (0, 0))
    if any(p != (0, 0) for p in both.values()) or min(before, after) < 0:
        return None
    if before + width + after != n:
        return None
    source = np.concatenate([np.full(before, -1), np.arange(width), np.full(after, -1)])
    _follow(c, node, [(x, source)])
    c.pads[node.output[0]] = (before, after, rank)
    return np.concatenate([np.zeros(before), c._constants(x), np.zeros(after)])


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _hard_sigmoid(x: Array, a: dict[str, Any]) -> Array:
    return np.clip(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1)


_LOOKS: dict[str, Callable[[_Compactor, NodeProto, int], Array | None]] = {
    "Conv": _conv,
    "Gemm": _linear,
    "MatMul": _linear,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Pad": _pad,
    "Slice": _slice,
    "Identity": _unary(lambda x, a: x),
    "Relu": _unary(lambda x, a: np.maximum(x, 0)),
    "LeakyRelu": _unary(lambda x, a: np.where(x < 0, a.get("alpha", 0.01) * x, x)),
    "Sigmoid": _unary(lambda x, a: _sigmoid(x)),
    "Tanh": _unary(lambda x, a: np.tanh(x)),
    "HardSigmoid": _unary(_hard_sigmoid),
    "HardSwish": _unary(lambda x, a: x * np.clip(x / 6 + 0.5, 0, 1)),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_BINARY, _binary),
}
