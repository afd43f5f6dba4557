"""What is verified: a packed model, its dense parent and its data, checked to belong together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from fggp_deploy import runtime
from fggp_deploy.artifacts.sparse_model import SparseModel
from fggp_deploy.data.types import Dataset, Preprocessing
from fggp_deploy.errors import DataError, ModelFileError
from fggp_deploy.files import sha256_file
from fggp_deploy.onnx_reading import reading
from fggp_deploy.progress import Progress, silent
from fggp_deploy.verify import accuracy, parity
from fggp_deploy.verify.input_check import InputCheck, check_inputs
from fggp_deploy.verify.localise import (
    Mismatch,
    first_difference,
    first_difference_on_kernels,
)
from fggp_deploy.verify.network import Floats, Network, load, open_by_runtime
from fggp_deploy.verify.robustness import Robustness, robustness

N_PROBES = 8  # random inputs where the file brings no self-test
KERNELS_RTOL = 1e-5  # of the largest logit: how far the kernels may be from stock
N_PARITY = 256  # test images on which packed and dense are compared

UNTRUSTED = (
    "The layer that differs was not looked for: the checkpoint that the file was made from is not "
    "beside it and no --trusted network was given."
)

Trusted = Callable[[], onnx.ModelProto | None]  # the network that a file ought to hold


@dataclass(frozen=True)
class Subject:
    """A model file with its network, and where they are there the dense parent's and the data.

    `reference` is the parent's file and `parent` its network: both or neither. `kernels` is the
    same model on the sparse kernels, None where they are missing or no faster; `speed` says why.
    `unrounded` is the network of a file beside one with fp16 values that holds the same checkpoint
    in fp32.
    """

    packed: SparseModel
    model: Network
    reference: Path | None
    parent: Network | None
    data: Dataset | None
    kernels: Network | None = None
    speed: str = ""
    unrounded: Network | None = None


def gather(
    packed: SparseModel,
    *,
    reference: Path | None,
    data: Dataset | None,
    threads: int,
    batch: int = 1,
    progress: Progress = silent,
) -> Subject:
    """Load both networks and check that everything fits.

    Raises ModelFileError for a network that does not load or gives another number of logits than
    the model has classes, and DataError for data of another size or number of classes.
    """
    meta = packed.metadata
    if data is not None:
        check_data(packed, data)
    model = load(packed.path.name, packed.runnable(), threads=threads)
    parent = load(reference.name, reference, threads=threads) if reference else None
    probe = np.zeros((1, *meta.preprocessing.input_shape), np.float32)
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
    on_kernels = fast if runtime.uses_kernels(fast.session) else None
    twin = find_unrounded(packed) if meta.unrounded is not None else None
    unrounded = load(twin.name, twin, threads=threads) if twin else None
    return Subject(packed, model, reference, parent, data, on_kernels, speed, unrounded)


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


def parent_sparsity(reference: Path) -> float:
    """Share of zeros in the parent's weights as its file tells it; 0 where it tells nothing."""
    try:
        told = SparseModel.open(reference).metadata.sparsity
        return float(told["n_all_removed"]) / max(1, int(told["n_all_weights"]))
    except (ModelFileError, KeyError, TypeError, ValueError):
        return 0.0


def _preprocessing(reference: Path) -> Preprocessing | None:
    """What the parent says it is fed; None where its file says nothing."""
    try:
        return SparseModel.open(reference).metadata.preprocessing
    except ModelFileError:
        return None


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


def self_test(subject: Subject) -> parity.Difference | None:
    """Compare the model with the logits that were recorded at export; None where none were."""
    test = subject.packed.metadata.selftest
    if test is None:
        return None
    y = subject.model.logits(test.probe(subject.packed.metadata.preprocessing.input_shape))
    expected = np.asarray(test.logits, np.float32)
    return parity.difference(y, expected, rtol=test.rtol, atol=test.atol)


def rounding(subject: Subject) -> parity.Difference | None:
    """Compare fp16 values with the fp32 logits that export recorded; None without fp16 values.

    What rounding may change is for its user to judge, so the tolerances are wide: 5% of the
    largest logit.
    """
    test = subject.packed.metadata.unrounded
    if test is None:
        return None
    y = subject.model.logits(test.probe(subject.packed.metadata.preprocessing.input_shape))
    atol = 0.05 * float(np.abs(test.logits).max())
    return parity.difference(y, np.asarray(test.logits, np.float32), rtol=0.0, atol=atol)


def packed_against_dense(
    subject: Subject, *, threads: int, seed: int
) -> dict[str, parity.Difference]:
    """Compare the packed file with its dense form under one runtime: inputs' name → Difference.

    The inputs are the self-test's, or normal noise from `seed`, and the first test images.
    """
    meta = subject.packed.metadata
    shape = meta.preprocessing.input_shape
    rng = np.random.default_rng(seed)
    x = (
        meta.selftest.probe(shape)
        if meta.selftest is not None
        else rng.standard_normal((N_PROBES, *shape), dtype=np.float32)
    )
    name = f"the dense form of {subject.model.name}"
    with reading(name):
        serialized = subject.packed.dense().SerializeToString()
    dense = load(name, serialized, threads=threads)
    found = {"probe inputs": parity.difference(subject.model.logits(x), dense.logits(x))}
    if subject.data is not None:
        some = subject.data.test.first(N_PARITY)
        found["test images"] = parity.difference(
            accuracy.logits(subject.model, some, meta.preprocessing),
            accuracy.logits(dense, some, meta.preprocessing),
        )
    return found


def score(
    subject: Subject, progress: Progress
) -> tuple[accuracy.Accuracy | None, parity.Difference | None, accuracy.Paired | None]:
    """Accuracy on the whole test split, paired with the parent's, and kernels against stock there.

    Third, fp16 values paired with fp32 ones. Each is None where there are no data, no kernels, or
    no file with fp32 values.
    """
    if subject.data is None:
        return None, None, None
    test = subject.data.test

    def run(network: Network, stage: str) -> Floats:
        preprocessing = subject.packed.metadata.preprocessing
        return accuracy.logits(network, test, preprocessing, partial(progress, stage))

    y = run(subject.model, "accuracy")
    y_parent = run(subject.parent, "accuracy of the reference") if subject.parent else None
    fast = None
    if subject.kernels is not None:
        # sums in another order differ by roundings of the largest logits, whatever the one compared
        atol = max(parity.ATOL, KERNELS_RTOL * float(np.abs(y).max()))
        fast = parity.difference(run(subject.kernels, "accuracy on the kernels"), y, atol=atol)
    scored = accuracy.accuracy(
        y, y_parent, test, data=subject.data.name, classes=subject.data.classes
    )
    y_fp32 = run(subject.unrounded, "accuracy in fp32") if subject.unrounded else None
    rounded = None if y_fp32 is None else accuracy.paired(y, y_fp32, test.labels)
    return scored, fast, rounded


def inputs_as_trained(subject: Subject) -> InputCheck | None:
    """Try other preprocessing on some test images; None without data."""
    if subject.data is None:
        return None
    others = {}
    if subject.reference is not None and (own := _preprocessing(subject.reference)) is not None:
        others["the mean and std of the parent"] = own
    others[f"the mean and std of {subject.data.name}"] = subject.data.preprocessing
    return check_inputs(
        subject.model, subject.data.test, subject.packed.metadata.preprocessing, others
    )


def robustness_of(
    subject: Subject, extent: str, seed: int, progress: Progress
) -> Robustness | None:
    """Model against parent on disturbed test images; None without one of them."""
    if subject.data is None or subject.parent is None:
        return None
    return robustness(
        subject.model,
        subject.parent,
        subject.data.test,
        subject.packed.metadata.preprocessing,
        extent=extent,
        seed=seed,
        progress=partial(progress, "robustness"),
    )


def first_mismatch(
    subject: Subject, checks: Mapping[str, parity.Difference], trusted: Trusted, *, threads: int
) -> tuple[Mismatch | None, tuple[str, ...]]:
    """The first layer that differs where a check failed, and what a reader must know if none is.

    Packed against dense and kernels against stock are compared inside the file; what fails its
    self-test needs the trusted network.
    """
    failed = [name for name, found in checks.items() if not found.passed]
    if not failed:
        return None, ()
    meta = subject.packed.metadata
    shape = meta.preprocessing.input_shape
    x = (
        meta.selftest.probe(shape)
        if meta.selftest is not None
        else np.random.default_rng(0).standard_normal((N_PROBES, *shape), dtype=np.float32)
    )
    try:
        with reading(subject.packed.path.name):
            dense = subject.packed.dense()
            packed = onnx.ModelProto.FromString(subject.packed.runnable())
        if any(name.startswith("parity") for name in failed):
            found = first_difference(packed, dense, x, against="its own dense form")
        elif "self-test" in failed:
            if (network := trusted()) is None:
                return None, (UNTRUSTED,)
            found = first_difference(dense, network, x, against="the network it was made from")
        else:
            found = first_difference_on_kernels(dense, x, threads=threads)
    except ModelFileError as e:
        return None, (f"The layer that differs was not found: {e}.",)
    return found, () if found else ("No single layer differs beyond rounding.",)


def notes(subject: Subject) -> tuple[str, ...]:
    """What a reader must know that no number tells."""
    notes = []
    if subject.reference is None:
        notes.append(
            "No dense parent: reference.onnx is not beside the model and no --reference was given, "
            "so there is no accuracy drop and no speed-up."
        )
    elif (share := parent_sparsity(subject.reference)) > 0.01:
        notes.append(f"The parent is itself {share:.1%} sparse; the drop is counted from it.")
    if subject.data is None:
        notes.append("No data was given, so accuracy was not measured.")
    if subject.kernels is None:
        notes.append(f"The sparse kernels were not used: {subject.speed.removeprefix('plain: ')}.")
    else:
        notes.append(f"The sparse kernels run {subject.speed.removeprefix('kernels: ')}.")
    if subject.packed.metadata.unrounded is not None and subject.unrounded is None:
        notes.append(
            "The values are fp16 and no file with the same checkpoint's fp32 values lies beside "
            "the model, so the two were compared on the self-test's inputs only."
        )
    if subject.packed.metadata.selftest is None:
        notes.append("The file brings no self-test, so no recorded logits were checked.")
    return tuple(notes)
