"""Export a network in memory, of any kind, to a file that checks itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto
from torch import nn
from torch.nn.parameter import is_lazy

from fggp_deploy.data import Preprocessing
from fggp_deploy.errors import ConfigError, FggpWarning, ModelFileError
from fggp_deploy.format.generated_inputs import Array, feeds
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.graph.comparison import noise, parity_of
from fggp_deploy.measure.network import load as load_network
from fggp_deploy.models.probing import check_runs
from fggp_deploy.pruning.prunable import NO_SHAPE
from fggp_deploy.pruning.wrappers import unwrap_parts_, unwrapped
from fggp_deploy.verification.certificate import weights

from . import Note, silent
from .exported import write_checked
from .file_metadata import record
from .options import ExportOptions
from .signature import Dynamic, Names, Signature
from .torch_onnx import to_onnx, traced

_FEW_ZEROS = 0.001  # of the weights, below which a network counts as dense


def export_model(
    model: nn.Module,
    path: Path | str,
    *,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    example_inputs: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic: Dynamic | None = None,
    format: str = "onnx",
    values: str = "fp32",
    regions: bool = False,
    note: Note = silent,
) -> Path:
    """Write any pruned network of your own.

    A classifier of images, [N, C, H, W] → [N, classes] logits, is described by `preprocessing` and
    `classes`. Any other network is described by `example_inputs`: a tensor or a list, which is the
    only argument of its forward(); a tuple of arguments; or a dictionary of arguments by name.
    Arguments and outputs may hold tensors in tuples, lists and dictionaries. Each tensor is an
    input or output of the file, called as `input_names` and `output_names` say, or else after the
    argument, the key or the position. Sizes are those of the examples, except on the axes in
    `dynamic`: {input: {axis: name of the size}}, or {input: [axis, …]}.

    The network may be wrapped (torch.compile, DataParallel, DDP, AveragedModel), on any device, and
    in half precision; the file computes in float32. The model itself is not changed. The file
    carries a self-test and is checked against it. `note` is called with a line for every weight
    that was left dense; a warning is given if the network has no zeros at all. Raises as
    `export_run`, and ConfigError for a network or a description of it that cannot be exported.
    """
    path = Path(path)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"export_model takes a torch.nn.Module, got {type(model).__name__}")
    options = ExportOptions(format=format, values=values, regions=regions)
    if example_inputs is not None:
        if preprocessing is not None or classes is not None:
            raise ConfigError(
                "preprocessing and classes describe a classifier of images, example_inputs any "
                "network; give one of the two"
            )
        names = Names(input_names, output_names, dynamic)
        return _export_any(_plain(model), path, example_inputs, names, options=options, note=note)
    if preprocessing is None or classes is None:
        raise ConfigError("give example_inputs, or a classifier's preprocessing and classes")
    if input_names is not None or output_names is not None or dynamic is not None:
        raise ConfigError(
            "input_names, output_names and dynamic belong to example_inputs; the file of an image "
            "classifier has its own"
        )
    network = _plain(model)
    check_runs(network, type(network).__name__, preprocessing.input_shape, len(classes))
    metadata = Metadata(preprocessing, tuple(classes), record(network, preprocessing))
    dense = to_onnx(network, metadata)
    _warn_if_dense(dense)
    write_checked(dense, metadata, path, options=options, note=note)
    return path


def _export_any(
    network: nn.Module,
    path: Path,
    example_inputs: Any,
    names: Names,
    *,
    options: ExportOptions,
    note: Note,
) -> Path:
    signature = Signature.of(network, example_inputs, names)
    dense = traced(network, signature.tracing)
    _warn_if_dense(dense)
    test = _self_test(signature, dense)
    metadata = Metadata(None, (), test, model=type(network).__name__)
    written, _ = write_checked(dense, metadata, path, options=options, note=note)
    if options.stored_values == "fp32":
        _check_examples(signature, written)
    return path


def _self_test(signature: Signature, dense: ModelProto) -> SelfTest:
    """The outputs in torch for generated inputs like the examples."""
    inputs = signature.inputs()
    generated = feeds(0, inputs)
    stock, plain = (_run(dense, generated, optimize=on) for on in (True, False))
    try:
        return SelfTest.record(inputs, signature.outputs(generated), noise(stock, plain))
    except (ConfigError, ModelFileError) as e:
        raise ConfigError(
            "no self-test can be made on generated inputs, whose values lie between the smallest "
            f"and the largest of example_inputs: {e}"
        ) from e


def _check_examples(signature: Signature, written: SparseModel) -> None:
    """Raise ModelFileError if the file gives other outputs for the examples than the network."""
    given = signature.feeds()
    want = signature.outputs(given)
    network = load_network(written.path.name, written.runnable(), threads=1)
    got = network.outputs(given)
    found = parity_of(
        [got[n] for n in want],
        list(want.values()),
        unoptimized=lambda: list(_run(written.dense(), given, optimize=False).values()),
    )
    if not found.passed:
        raise ModelFileError(
            f"{written.path} gives other outputs for example_inputs than the network, by "
            f"{found.error:.1e} of the largest; do not ship it, and report this"
        )


def _run(dense: ModelProto, inputs: dict[str, Array], *, optimize: bool) -> dict[str, Array]:
    content = dense.SerializeToString()
    return load_network("the network", content, threads=1, optimize=optimize).outputs(inputs)


def _plain(model: nn.Module) -> nn.Module:
    """A copy of the network without wrappers, on the CPU, in float32 and eval mode."""
    if lazy := [n for n, p in model.named_parameters() if is_lazy(p)]:
        raise ConfigError(f"{lazy[0]} {NO_SHAPE}")
    return unwrap_parts_(copy.deepcopy(unwrapped(model))).cpu().float().eval()


def _warn_if_dense(dense: ModelProto) -> None:
    layers = weights(dense).values()
    if sum(int((w == 0).sum()) for w in layers) < _FEW_ZEROS * sum(w.size for w in layers):
        warnings.warn(
            "the network has almost no zeros, so its file is as large as a dense one; if it was "
            "pruned, this is another copy of the weights, such as a moving average: pass it to "
            "Pruner(also=[…]), or set its zeros with pruner.finish().apply_(model)",
            FggpWarning,
            stacklevel=4,
        )
