"""Step one, load: the model under test with its dense model, its data and its kernels.

`load` opens every network that is measured later and checks that they belong together.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fggp_deploy import runtime
from fggp_deploy.common.files import sha256_file
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.data.types import Dataset, Preprocessing
from fggp_deploy.errors import DataError, MachineError, ModelFileError
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.model import SparseModel
from fggp_deploy.graph.reading import read_bytes
from fggp_deploy.measure import network as networks
from fggp_deploy.measure.evaluation_data import calibration_images
from fggp_deploy.measure.network import Floats, Network
from fggp_deploy.quantization.dense_baseline import quantize_on
from fggp_deploy.verification.options import VerifyOptions

N_PROBES = 8  # random inputs, if the file has no self-test
# The networks' names in the report.
MODEL, REFERENCE, KERNELS, INT8 = "model", "reference", "kernels", "int8"


@dataclass(frozen=True)
class DenseModel:
    """The network before pruning: its file, its network, and what its file says of itself.

    `sparsity` is the fraction of zeros in its own weights; `preprocessing` is None if its file
    does not record it.
    """

    path: Path
    network: Network
    sparsity: float
    preprocessing: Preprocessing | None


@dataclass(frozen=True)
class OnKernels:
    """The model under test on the sparse kernels.

    `fresh` is compiled now, with every layer that the kernels know. `compiled` is what users run:
    the compiled file that `runtime.session` cached at `file`; `file` is None if nothing was cached.
    """

    fresh: Network
    compiled: Network
    file: Path | None


@dataclass(frozen=True)
class Int8Model:
    """The dense int8 baseline: the serialized network and the number of calibration images."""

    content: bytes
    n_calibration: int


@dataclass(frozen=True)
class ModelUnderTest:
    """A model file, its networks, and the dense model and the data if they are available.

    `network` runs on stock ONNX Runtime. `kernels` is None if the kernels are missing or not
    faster; `plan` is what `runtime.explain` says of them. `fp32` is the network of a file beside
    one with rounded values that holds the same checkpoint in fp32. `int8` is None if the baseline
    could not be made; `no_int8` says why.
    """

    packed: SparseModel
    network: Network
    dense: DenseModel | None
    data: Dataset | None
    kernels: OnKernels | None
    plan: str
    fp32: Network | None
    int8: Int8Model | None
    no_int8: str

    @property
    def metadata(self) -> Metadata:
        """What the file says of itself."""
        return self.packed.metadata

    def probe_inputs(self, seed: int) -> Floats:
        """The self-test's first inputs, or normal noise from `seed` without one: [N, C, H, W]."""
        shape = self.metadata.images.input_shape
        if self.metadata.selftest is not None:
            return self.metadata.selftest.first_batch().images()
        return np.random.default_rng(seed).standard_normal((N_PROBES, *shape), dtype=np.float32)


def load(
    packed: SparseModel,
    *,
    reference: Path | None,
    data: Dataset | None,
    options: VerifyOptions,
    progress: Progress = silent,
) -> ModelUnderTest:
    """Open the networks of `packed` and of its dense model, the file `reference`.

    Raises ModelFileError for a network that does not load or whose number of logits is not the
    model's number of classes, and DataError for data of another image size or number of classes.
    """
    meta, name = packed.metadata, packed.path.name
    threads, batch = options.judged_setting
    if data is not None:
        check_data(packed, data)
    probe = np.zeros((1, *meta.images.input_shape), np.float32)
    networks.run_once_apart(name, packed.runnable(), probe)
    if reference is not None:
        networks.run_once_apart(reference.name, reference, probe)
    network = networks.load(name, packed.runnable(), threads=threads)
    dense = None if reference is None else _dense_model(reference, threads)
    for opened in (network, *([dense.network] if dense else [])):
        _check_classes(opened, probe, packed)
    kernels, plan = _on_kernels(packed, threads, batch, progress)
    unrounded = find_unrounded(packed) if meta.unrounded is not None else None
    int8, no_int8 = None, "--no-int8"
    if options.int8:
        int8, no_int8 = _int8_baseline(reference, data, meta.images, progress)
    return ModelUnderTest(
        packed=packed,
        network=network,
        dense=dense,
        data=data,
        kernels=kernels,
        plan=plan,
        fp32=networks.load(unrounded.name, unrounded, threads=threads) if unrounded else None,
        int8=int8,
        no_int8=no_int8,
    )


def find_reference(packed: SparseModel, given: Path | None) -> Path | None:
    """The dense model's ONNX file: `given`, or reference.onnx beside the model, or None.

    Raises ModelFileError if the given file is missing, or if the model recorded the hash of a
    different file.
    """
    path = given if given is not None else packed.path.parent / "reference.onnx"
    if not path.is_file():
        if given is None:
            return None
        raise ModelFileError(f"the reference {path} is not a file; give the dense model's ONNX")
    meta = packed.metadata
    recorded = meta.provenance.get("reference_sha256", meta.parent_sha256)
    try:
        found = sha256_file(path)
    except OSError as e:
        raise ModelFileError(f"the reference {path} cannot be read ({e.strerror or e})") from e
    if recorded is not None and recorded != found:
        raise ModelFileError(
            f"{path} is not the dense model of {packed.path.name}: its sha256 is not the one "
            "recorded at export; give the right --reference or export both again"
        )
    return path


def find_unrounded(packed: SparseModel) -> Path | None:
    """The ONNX file beside `packed` that holds the same checkpoint with fp32 values, if any."""
    checkpoint = packed.metadata.checkpoint_sha256
    for path in sorted(packed.path.parent.glob("*.onnx")):
        with contextlib.suppress(ModelFileError):
            meta = SparseModel.open(path).metadata
            if checkpoint and meta.checkpoint_sha256 == checkpoint and meta.unrounded is None:
                return path
    return None


def check_data(packed: SparseModel, data: Dataset) -> None:
    """Raise DataError if the data's classes or image size are not the model's."""
    meta, name = packed.metadata, packed.path.name
    expected, found = meta.images.input_shape, data.preprocessing.input_shape
    if expected != found:
        raise DataError(
            f"{data.name} has images of (channels, height, width) {found}, {name} wants "
            f"{expected}; give the data that it was trained on"
        )
    if len(data.classes) != len(meta.classes):
        raise DataError(
            f"{data.name} has {len(data.classes)} classes, {name} has {len(meta.classes)}; "
            "give the data that it was trained on"
        )


def _check_classes(network: Network, probe: Floats, packed: SparseModel) -> None:
    classes = packed.metadata.classes
    if (n := network.logits(probe).shape[1]) != len(classes):
        raise ModelFileError(
            f"{network.name} gives {n} logits but {packed.path.name} names {len(classes)} "
            "classes; they do not belong together, export again"
        )


def _dense_model(path: Path, threads: int) -> DenseModel:
    network = networks.load(path.name, path, threads=threads)
    try:
        meta = SparseModel.open(path).metadata
    except ModelFileError:  # a file without our metadata
        return DenseModel(path, network, 0.0, None)
    try:
        recorded = meta.sparsity
        sparsity = float(recorded["n_all_removed"]) / max(1, int(recorded["n_all_weights"]))
    except (KeyError, TypeError, ValueError):
        sparsity = 0.0
    return DenseModel(path, network, sparsity, meta.preprocessing)


def _on_kernels(
    packed: SparseModel, threads: int, batch: int, progress: Progress
) -> tuple[OnKernels | None, str]:
    """The model on the kernels if they are faster, and what `runtime.explain` says."""
    content, name = packed.runnable(), packed.path.name
    on_kernels = f"{name} on the kernels"
    fast, plan = networks.open_by_runtime(
        on_kernels, content, threads=threads, batch=batch, progress=progress
    )
    if not runtime.uses_kernels(fast.session):
        return None, plan
    fresh, _ = networks.open_by_runtime(
        on_kernels, content, threads=threads, batch=batch, anew=True
    )
    cached = runtime.compiled_file(content, threads=threads, batch=batch)
    compiled = fast
    if cached is not None:
        compiled = networks.open_compiled(f"{name}, compiled", cached, threads=threads)
    return OnKernels(fresh, compiled, cached), plan


def _int8_baseline(
    reference: Path | None, data: Dataset | None, preprocessing: Preprocessing, progress: Progress
) -> tuple[Int8Model | None, str]:
    """The dense int8 baseline, or None and the reason why there is none."""
    if reference is None:
        return None, "there is no dense model"
    if data is None:
        return None, "no data was given to calibrate it on"
    if not len(data.train):
        return None, "no training images were loaded to calibrate it on; --int8 loads them"
    stage = "quantizing the dense model to int8"
    try:
        progress(stage, 0, 1)
        images = calibration_images(data, preprocessing)
        content = quantize_on(read_bytes(reference), images)
        progress(stage, 1, 1)
        return Int8Model(content, len(images)), ""
    except (ModelFileError, MachineError) as e:
        return None, str(e)
