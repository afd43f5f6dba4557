"""What is verified: a packed model, its dense parent and its data, checked to belong together."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fggp_deploy import runtime
from fggp_deploy.common.files import sha256_file
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import DataError, ModelFileError
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.model import SparseModel
from fggp_deploy.measure.network import (
    Floats,
    Network,
    load,
    open_by_runtime,
    open_compiled,
    run_once_apart,
)
from fggp_deploy.verify.int8 import Quantised, quantised

N_PROBES = 8  # random inputs where the file brings no self-test
# The networks' names in the report.
MODEL, REFERENCE, KERNELS, INT8 = "model", "reference", "kernels", "int8"


@dataclass(frozen=True)
class Subject:
    """A model file with its network, and where they are there the dense parent's and the data.

    `reference` is the parent's file and `parent` its network: both or neither. `kernels` is the
    same model compiled for the sparse kernels now, `compiled` as it was compiled and kept in
    `compiled_file` and as users run it; None where the kernels are missing or no faster: `speed`
    says why.
    `unrounded` is the network of a file beside one with rounded values that holds the same
    checkpoint in fp32. `int8` is the parent quantised, None where it could not be: `no_int8` says
    why.
    """

    packed: SparseModel
    model: Network
    reference: Path | None
    parent: Network | None
    data: Dataset | None
    kernels: Network | None = None
    compiled: Network | None = None
    compiled_file: Path | None = None
    speed: str = ""
    unrounded: Network | None = None
    int8: Quantised | None = None
    no_int8: str = ""


def gather(
    packed: SparseModel,
    *,
    reference: Path | None,
    data: Dataset | None,
    threads: int,
    batch: int = 1,
    int8: bool = True,
    progress: Progress = silent,
) -> Subject:
    """Load both networks and check that everything fits; `int8`: quantise the parent.

    Raises ModelFileError for a network that does not load or gives another number of logits than
    the model has classes, and DataError for data of another size or number of classes.
    """
    meta = packed.metadata
    if data is not None:
        check_data(packed, data)
    probe = np.zeros((1, *meta.preprocessing.input_shape), np.float32)
    run_once_apart(packed.path.name, packed.runnable(), probe)
    if reference is not None:
        run_once_apart(reference.name, reference, probe)
    model = load(packed.path.name, packed.runnable(), threads=threads)
    parent = load(reference.name, reference, threads=threads) if reference else None
    for network in (model, parent):
        if network is not None and (n := network.logits(probe).shape[1]) != len(meta.classes):
            raise ModelFileError(
                f"{network.name} gives {n} logits but {packed.path.name} names "
                f"{len(meta.classes)} classes; they do not belong together, export again"
            )
    fast, speed = open_by_runtime(
        f"{packed.path.name} on the kernels",
        packed.runnable(),
        threads=threads,
        batch=batch,
        progress=progress,
    )
    on_kernels, compiled, kept = None, None, None
    if runtime.uses_kernels(fast.session):
        content, own = packed.runnable(), packed.path.name
        on_kernels, _ = open_by_runtime(
            f"{own} on the kernels", content, threads=threads, batch=batch, anew=True
        )
        kept = runtime.compiled_file(content, threads=threads, batch=batch)
        compiled = open_compiled(f"{own}, compiled", kept, threads=threads) if kept else fast
    twin = find_unrounded(packed) if meta.unrounded is not None else None
    unrounded = load(twin.name, twin, threads=threads) if twin else None
    rival, no_int8 = None, "--no-int8"
    if int8:
        rival, no_int8 = quantised(reference, data, meta.preprocessing, progress)
    return Subject(
        packed, model, reference, parent, data, on_kernels, compiled, kept, speed, unrounded,
        rival, no_int8,
    )  # fmt: skip


def find_reference(packed: SparseModel, given: Path | None) -> Path | None:
    """The dense parent's ONNX: as given, or `reference.onnx` beside the model, or None.

    Raises ModelFileError where the one given is missing, or where the model recorded the hash of
    another one.
    """
    path = given if given is not None else packed.path.parent / "reference.onnx"
    if not path.is_file():
        if given is None:
            return None
        raise ModelFileError(f"the reference {path} is not a file; give the dense parent's ONNX")
    meta = packed.metadata
    recorded = meta.provenance.get("reference_sha256", meta.parent_sha256)
    try:
        found = sha256_file(path)
    except OSError as e:
        raise ModelFileError(f"the reference {path} cannot be read ({e.strerror or e})") from e
    if recorded is not None and recorded != found:
        raise ModelFileError(
            f"{path} is not the dense parent of {packed.path.name}: its sha256 is not the one "
            "recorded at export; give the right --reference or export both again"
        )
    return path


def find_unrounded(packed: SparseModel) -> Path | None:
    """The ONNX file beside `packed` that holds the same checkpoint with fp32 values, if any."""
    made_from = packed.metadata.checkpoint_sha256
    for path in sorted(packed.path.parent.glob("*.onnx")):
        with contextlib.suppress(ModelFileError):
            meta = SparseModel.open(path).metadata
            if made_from and meta.checkpoint_sha256 == made_from and meta.unrounded is None:
                return path
    return None


def probe_inputs(meta: Metadata, seed: int) -> Floats:
    """The self-test's first inputs, or normal noise if the file brings none: [N, C, H, W]."""
    shape = meta.preprocessing.input_shape
    if meta.selftest is not None:
        return meta.selftest.first_batch().probe(shape)
    return np.random.default_rng(seed).standard_normal((N_PROBES, *shape), dtype=np.float32)


def check_data(packed: SparseModel, data: Dataset) -> None:
    """Raise DataError where the data's classes or image size are not the model's."""
    meta, name = packed.metadata, packed.path.name
    want, have = meta.preprocessing.input_shape, data.preprocessing.input_shape
    if want != have:
        raise DataError(
            f"{data.name} has images of (channels, height, width) {have}, {name} wants {want}; "
            "give the data that it was trained on"
        )
    if len(data.classes) != len(meta.classes):
        raise DataError(
            f"{data.name} has {len(data.classes)} classes, {name} has {len(meta.classes)}; "
            "give the data that it was trained on"
        )
