"""What an export returns, and the check that every exported file must pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.model import SparseModel
from fggp_deploy.graph.comparison import largest_difference
from fggp_deploy.measure.network import load as load_network
from fggp_deploy.measure.network import open_compiled

from . import Note, load
from .compaction import Compacted
from .options import ExportOptions


@dataclass(frozen=True)
class Exported:
    """What an export made.

    `file_bytes` is the size of the file, or of a folder's files together, and `sha256` its hash, or
    that of the files' names and hashes. `reference` is the file of the dense model.
    `self_test_error` is the largest difference of a logit from the network that the file was made
    from, `rounding_error` the largest that rounded values make on the self-test's inputs, and
    `largest_logit` the number to compare both with. `notes` are lines for the user, such as the
    weights that were left dense. `compaction` is what --compact removed; `sparsity` is that of the
    network before.
    """

    path: Path
    format: str
    values: str
    file_bytes: int
    sha256: str
    reference: Path | None
    reference_bytes: int | None
    sparsity: float
    self_test_error: float
    rounding_error: float | None
    largest_logit: float
    notes: tuple[str, ...]
    compaction: Compacted | None = None


def write_checked(
    dense: ModelProto, metadata: Metadata, path: Path, *, options: ExportOptions, note: Note
) -> tuple[SparseModel, float]:
    """Write a network, read the file back, and run its self-test under ONNX Runtime.

    Returns the file as read, and the largest difference of a logit. Raises ModelFileError if the
    self-test fails, and as the format's `export`.
    """
    load(options.format).export(dense, metadata, path, note=note, **options.for_format)
    written = SparseModel.open(path)
    if options.regions:
        check_self_test(written, on_kernels=True)
    return written, check_self_test(written)


def check_self_test(written: SparseModel, *, on_kernels: bool = False) -> float:
    """The largest difference of a recorded value in a file's self-test.

    Raises ModelFileError if it fails.
    """
    test = written.metadata.selftest
    assert test is not None  # whoever exports records one
    opened = open_compiled if on_kernels else load_network
    network = opened(written.path.name, written.runnable(), threads=1)
    found = test.outputs_of(network.outputs)
    if not test.passes(found):
        where = "on the kernels" if on_kernels else "on stock ONNX Runtime"
        raise ModelFileError(
            f"{written.path} gives other outputs {where} than the network that it was made from; "
            "do not ship it, and report this"
        )
    return max(largest_difference(o.of(found[o.name]), np.array(o.values)) for o in test.outputs)
