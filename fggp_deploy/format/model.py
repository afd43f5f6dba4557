"""SparseModel: a deployable model read back and checked, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto, ValueInfoProto, numpy_helper

from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format import csr_folder
from fggp_deploy.format.encodings.checks import MAX_ELEMENTS
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.format.unpacking import Unpacked, layer_name, split
from fggp_deploy.graph.constants import required_inputs
from fggp_deploy.graph.macs import total_macs
from fggp_deploy.graph.qdq import has_quantized_activations
from fggp_deploy.graph.reading import in_one_piece, reading, stored_bytes
from fggp_deploy.graph.shapes import Shapes, infer_shapes
from fggp_deploy.graph.view import GraphView
from fggp_deploy.graph.weights import layer_weights

__all__ = ["Layer", "Metadata", "SelfTest", "SparseModel"]


@dataclass(frozen=True)
class Layer:
    """A weight of the network as the file stores it.

    `encoding` is "dense" or the name of an encoding. `macs` counts the dense multiply-accumulates
    for one image; it is None if the graph does not state the shapes. `of_layer` is False for a
    packed constant, such as anchors, that no convolution, linear or recurrent layer multiplies.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    encoding: str
    nnz: int
    stored_bytes: int
    macs: int | None
    of_layer: bool = True

    @property
    def size(self) -> int:
        """Number of weights, zeros included."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are zero, in [0, 1]."""
        return 1 - self.nnz / self.size


@dataclass(frozen=True)
class SparseModel:
    """A deployable model: an `.onnx` file (packed, flat, dense or foreign) or a `.csr` folder.

    `open` reports whatever is wrong with the file as one ModelFileError. Afterwards every index and
    length in it has been checked.
    """

    path: Path
    metadata: Metadata
    layers: tuple[Layer, ...]
    _content: Unpacked = field(repr=False)
    _serialized: bytes | None = field(repr=False)  # what onnxruntime loads; None for csr

    @classmethod
    def open(cls, path: Path | str) -> SparseModel:
        """Read and check the file or folder. Raises ModelFileError, in one clear line."""
        path = Path(path)
        try:
            if path.is_dir():
                metadata, content = csr_folder.read(path)
                serialized = None
            else:
                serialized = _read_file(path)
                metadata, content = _parse(serialized)
            with reading("the graph"):
                shapes = _check_interface(content, metadata)
                layers = _layers(content, shapes)
                metadata = metadata.named(*_interface(content))
        except ModelFileError as e:
            raise ModelFileError(f"{path}: {e}") from e
        return cls(path, metadata, layers, content, serialized)

    def runnable(self) -> bytes:
        """Serialized ONNX for onnxruntime: the file itself; for csr, its weights in the graph."""
        if self._serialized is not None:
            return self._serialized
        with reading(str(self.path)):
            content: bytes = self.dense().SerializeToString()
            return content

    def dense(self) -> ModelProto:
        """The dense-with-zeros network in standard operators, decoded by numpy, not by ORT."""
        return self._content.dense()

    @property
    def has_quantized_activations(self) -> bool:
        """Whether activations are quantized to int8."""
        return has_quantized_activations(self._content.graph)

    def file_bytes(self) -> int:
        """Size of the file, or of all files in the folder, in bytes."""
        if self.path.is_dir():
            return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file())
        return stored_bytes(self.path)


def _read_file(path: Path) -> bytes:
    try:
        if not path.exists():
            raise ModelFileError("no such file; make one with `fggp-deploy export`")
        if path.stat().st_size > csr_folder.MAX_BYTES:
            raise ModelFileError(
                "larger than 2 GiB, the limit for an ONNX file without external data"
            )
        return in_one_piece(path.read_bytes(), path.parent)
    except (OSError, MemoryError) as e:
        raise ModelFileError(f"cannot be read ({e})") from e


def _parse(serialized: bytes) -> tuple[Metadata, Unpacked]:
    with reading("it is truncated, corrupt or no ONNX file: it"):
        model = ModelProto.FromString(serialized)
    if not model.graph.node:
        raise ModelFileError("it is truncated, corrupt or not an ONNX file: it has no graph")
    metadata = Metadata.from_props({p.key: p.value for p in model.metadata_props})
    return metadata, split(model)


def _check_interface(content: Unpacked, metadata: Metadata) -> Shapes:
    """Shapes, of a classifier for one image.

    Raises ModelFileError if graph and metadata contradict each other.
    """
    if metadata.preprocessing is None:
        return infer_shapes(content.graph)
    shapes = _shapes_for_one_image(content, metadata.preprocessing, len(metadata.classes))
    for name, shape in shapes.items():
        if None not in shape and math.prod(d or 0 for d in shape) > MAX_ELEMENTS:
            raise ModelFileError(f"tensor {name!r} has shape {shape} for one image")
    return shapes


def _shapes_for_one_image(
    content: Unpacked, preprocessing: Preprocessing, n_classes: int
) -> Shapes:
    names, outputs = _interface(content)
    if len(names) != 1 or len(outputs) != 1:
        raise ModelFileError(
            f"the network has {len(names)} inputs and {len(outputs)} outputs, not one each"
        )
    single = ModelProto()
    single.CopyFrom(content.graph)
    for value in single.graph.input:
        if value.name == names[0]:
            if _sides(value)[1:] != preprocessing.input_shape:
                raise ModelFileError(
                    f"the network's input is {_sides(value)}, its metadata says "
                    f"{preprocessing.input_shape}"
                )
            value.type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]  # they are for the symbolic batch
    sides = single.graph.output[0].type.tensor_type.shape.dim
    if len(sides) != 2 or sides[1].dim_value not in (0, n_classes):
        raise ModelFileError(
            f"the network's output is {_sides(single.graph.output[0])}, "
            f"its metadata has {n_classes} classes"
        )
    sides[0].Clear()
    return infer_shapes(single)


def _interface(content: Unpacked) -> tuple[list[str], list[str]]:
    """The names of the inputs, without weights that are listed as inputs, and of the outputs."""
    graph = content.graph.graph
    inputs = [v.name for v in required_inputs(graph) if v.name not in content.weights]
    return inputs, [v.name for v in graph.output]


def _sides(value: ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim)


def _layers(content: Unpacked, shapes: Shapes) -> tuple[Layer, ...]:
    """An entry for each weight of a layer, in the graph's order, then for other packed tensors."""
    view = GraphView(content.graph.graph)
    dense = {n: t for n, t in view.initializers.items() if len(t.dims) > 1}
    weights = layer_weights(view.graph, content.weights.keys() | dense.keys())
    rest = content.weights.keys() - weights
    others = {name: view.readers(name) for name in view.uses if name in rest}
    layers = []
    for name, nodes in (*weights.items(), *others.items()):
        if name in content.weights:
            packed = content.weights[name]
            how = (packed.shape, packed.name, packed.nnz, packed.stored_bytes)
        else:
            w = numpy_helper.to_array(dense[name])
            how = (w.shape, "dense", int(np.count_nonzero(w)), w.nbytes)
        if not math.prod(how[0]):
            raise ModelFileError(f"weight {name!r} has no elements")
        macs = total_macs(nodes, shapes)
        layers.append(Layer(layer_name(name), nodes[0].op_type, *how, macs, name in weights))
    return tuple(layers)
