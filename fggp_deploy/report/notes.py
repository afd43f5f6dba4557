"""What a reader of a report must know that no number tells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.model import SparseModel
from fggp_deploy.measure.latency import Latency, setting
from fggp_deploy.report import words
from fggp_deploy.verify.model_under_test import Subject


def notes(subject: Subject, *, preprocessing_checked: bool) -> tuple[str, ...]:
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
    elif not preprocessing_checked:
        notes.append("The preprocessing was not checked (--no-preprocessing-check).")
    if subject.kernels is None:
        notes.append(f"The sparse kernels were not used: {subject.speed.removeprefix('plain: ')}.")
    else:
        notes.append(f"The sparse kernels run {subject.speed.removeprefix('kernels: ')}.")
    if subject.no_int8:
        notes.append(f"Dense int8 was not measured: {subject.no_int8}.")
    if subject.packed.metadata.unrounded is not None and subject.unrounded is None:
        notes.append(
            "The values are rounded and no file with the same checkpoint's fp32 values lies beside "
            "the model, so the two were compared on the self-test's inputs only."
        )
    if subject.packed.metadata.selftest is None:
        notes.append("The file brings no self-test, so no recorded logits were checked.")
    return tuple(notes)


def busy_notes(measured: Iterable[Latency]) -> list[str]:
    """A note for each setting at which the machine was too busy to measure speed."""
    return [
        f"{setting(lat.threads, lat.batch).capitalize()}: {why}."
        for lat in measured
        if (why := words.too_busy(lat))
    ]


def parent_sparsity(reference: Path) -> float:
    """Share of zeros in the parent's weights as its file tells it; 0 where it tells nothing."""
    try:
        told = SparseModel.open(reference).metadata.sparsity
        return float(told["n_all_removed"]) / max(1, int(told["n_all_weights"]))
    except (ModelFileError, KeyError, TypeError, ValueError):
        return 0.0
