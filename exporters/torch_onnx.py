"""Converts a torch network to a dense ONNX graph with zeros, from which every format is written."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, numpy_helper
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule
from torch.export import Dim
from torch.nn.modules.batchnorm import _NormBase

from fggp_deploy.common.user_code import raised
from fggp_deploy.errors import CheckpointError, ConfigError
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.self_test import IMAGES, LOGITS
from fggp_deploy.format.unpacking import layer_name
from fggp_deploy.graph.constants import initializers
from fggp_deploy.graph.macs import LAYERS

OPSET = 18
MAX_IR_VERSION = 10  # the newest IR version that onnxruntime 1.20 loads


@dataclass(frozen=True)
class Tracing:
    """How a network is traced: example inputs and names, one entry per input or output.

    `dynamic` names the open axes of each input. `forward` makes a forward() of tensors, in the
    order of `examples`, that returns a tuple of tensors; None if the network's own does that.
    """

    examples: tuple[torch.Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic: tuple[Mapping[int, str], ...]
    forward: Callable[[Callable[..., Any]], Callable[..., tuple[torch.Tensor, ...]]] | None = None

    def dynamic_in_words(self) -> str:
        """The open axes, as `axis 0 of x`."""
        pairs = zip(self.input_names, self.dynamic, strict=True)
        axes = [f"axis {a} of {name}" for name, open_axes in pairs for a in open_axes]
        return ", ".join(axes) or "the example inputs"


def to_onnx(model: torch.nn.Module, metadata: Metadata) -> ModelProto:
    """Trace a classifier: float32 [batch, C, H, W] `input` → [batch, classes] `logits`.

    Raises as `traced`.
    """
    example = torch.zeros(2, *metadata.images.input_shape)  # 1 would become a constant
    return traced(model, Tracing((example,), (IMAGES,), (LOGITS,), ({0: "batch"},)))


def traced(model: torch.nn.Module, how: Tracing) -> ModelProto:
    """Trace a network in eval mode to a graph whose inputs and outputs have the names in `how`.

    Batch norms that follow a convolution are folded into it, and a zero weight stays exactly zero.
    Initializers have the torch parameters' names, also if a MatMul holds a linear layer's weight
    transposed, as [in, out]; nodes with weights have the layers' names. The model itself is not
    changed. Raises CheckpointError for a weight that is NaN or infinite, and ConfigError if
    torch.onnx cannot export the network.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    masks = _masks(model)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or name in masks:
            continue
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"weight {name!r} holds NaN or inf; export a checkpoint from before it diverged"
            )
    shapes: Any = tuple({a: Dim(n) for a, n in axes.items()} for axes in how.dynamic)
    if how.forward is not None:
        model.forward = how.forward(model.forward)
        shapes = {"tensors": tuple(how.dynamic)}
    with _quiet(), torch.no_grad():
        exported = _exported(model, how, shapes)
        folded = rewrite(exported, pattern_rewrite_rules=[fuse_batchnorm_into_conv_rule])
    _name_transposed(folded.graph, model)
    return tidy(folded)


def _masks(model: torch.nn.Module) -> set[str]:
    """Buffers of an attention mask: they hold minus infinity, but nothing else that is not finite.

    Those of batch norms never do.
    """
    norms = {n for n, m in model.named_modules() if isinstance(m, _NormBase)}
    return {
        name
        for name, b in model.named_buffers()
        if b.is_floating_point()
        and name.rpartition(".")[0] not in norms
        and (torch.isfinite(b) | (b == -torch.inf)).all()
    }


def _exported(model: torch.nn.Module, how: Tracing, shapes: Any) -> ModelProto:
    """What torch.onnx.export makes of a network; raises ConfigError with the cause if it fails."""
    try:
        program = torch.onnx.export(
            model,
            how.examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=how.input_names,
            output_names=how.output_names,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    except Exception as e:  # the exporter, and the network's own code, may raise anything
        cause = e
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        several = sum(map(len, how.dynamic)) > 1
        raise ConfigError(
            f"torch.onnx cannot export this network ({raised(cause)}); write its forward() so that "
            f"torch.export.export(model, …) traces it with any size of {how.dynamic_in_words()}"
            + (
                "; if two of these sizes are always equal, give them one name in `dynamic`"
                if several
                else ""
            )
        ) from e
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return program.model_proto


def _name_transposed(graph: GraphProto, model: torch.nn.Module) -> None:
    """Restore the names of linear weights, which the exporter transposes and renames.

    If several layers share a weight, the exporter copies it for each; one copy is kept.
    """
    stored = initializers(graph)
    parameters = dict(model.named_parameters())
    names = {
        _content(p.detach().numpy().T): name
        for name, p in parameters.items()
        if p.ndim == 2 and name not in stored
    }
    renamed: dict[str, str] = {}
    for i, tensor in reversed(list(enumerate(graph.initializer))):
        if len(tensor.dims) != 2 or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        if tensor.name in parameters:
            continue
        name = names.get(_content(numpy_helper.to_array(tensor)))
        if name is None:
            continue
        is_copy = name in renamed.values()
        renamed[tensor.name] = name
        if is_copy:
            del graph.initializer[i]
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)


def _content(w: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return w.shape, hashlib.sha256(np.ascontiguousarray(w).data).digest()


def tidy(model: ModelProto) -> ModelProto:
    """Name nodes after their layers, make every zero +0, and remove what only developers need.

    The exporter's notes hold stack traces with paths of this machine. Raises CheckpointError if
    folding made a weight infinite.
    """
    out = ModelProto()
    out.CopyFrom(model)
    out.ir_version = min(out.ir_version, MAX_IR_VERSION)
    graph = out.graph
    del out.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    out.ClearField("doc_string")
    graph.ClearField("doc_string")
    graph.name = "network"
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
    weights = set()
    layers = (n for n in graph.node if n.op_type in LAYERS)
    in_layers = {name for node in layers for name in node.input[1:]}
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.ClearField("doc_string")
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        w = numpy_helper.to_array(tensor)
        if tensor.name in in_layers and not np.isfinite(w).all():
            raise CheckpointError(
                f"weight {tensor.name!r} overflows when its batch norm is folded into it; "
                "its running variance must be wrong"
            )
        tensor.CopyFrom(numpy_helper.from_array(w + np.float32(0), tensor.name))  # −0 → +0
        if w.ndim >= 2:
            weights.add(tensor.name)
    taken = set(initializers(graph))
    renamed: dict[str, str] = {}
    seen: set[str] = set()
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
        if len(node.input) > 1 and node.input[1] in weights - seen:
            seen.add(node.input[1])
            node.name = layer_name(node.input[1])
            bias = f"{node.name}.bias"
            if node.op_type == "Conv" and len(node.input) > 2 and bias not in taken:
                renamed[node.input[2]] = node.input[2] = bias  # the rule appends "_bias"
                taken.add(bias)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    onnx.checker.check_model(out, full_check=True)
    return out


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints and warns about internal matters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
