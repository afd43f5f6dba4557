"""The verification of one file in four steps: load, measure, judge, report."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.format.model import SparseModel
from fggp_deploy.measure.machine import machine
from fggp_deploy.measure.network import SESSION_CONFIG
from fggp_deploy.verification.checks import judge
from fggp_deploy.verification.gates import Gates
from fggp_deploy.verification.measurements import measure
from fggp_deploy.verification.model_under_test import find_reference, load
from fggp_deploy.verification.notes import notes
from fggp_deploy.verification.options import VerifyOptions
from fggp_deploy.verification.original import Original
from fggp_deploy.verification.report import Report, report


def verify(
    model: Path | SparseModel,
    *,
    reference: Path | None = None,
    data: Dataset | None = None,
    gates: Gates | None = None,
    options: VerifyOptions | None = None,
    original: Original | None = None,
    progress: Progress = silent,
) -> Report:
    """Verify a packed .onnx file or .csr folder on the CPU, on stock ONNX Runtime and the kernels.

    `model` is the file or, if it is open already, what `SparseModel.open` returned.
    `reference` is the dense model's ONNX, by default reference.onnx beside the model. `data` has
    the test split on which accuracy is measured. `original` supplies the network that the file was
    made from, for the comparison with torch and to find the layer that differs.

    Raises ConfigError for gates that cannot be judged, ModelFileError for files that are damaged,
    do not run or do not belong together, and DataError for data of another image size or number of
    classes.
    """
    gates, options = gates or Gates(), options or VerifyOptions()
    started, state = datetime.now(UTC), machine()
    packed = model if isinstance(model, SparseModel) else SparseModel.open(model)
    try:
        packed.metadata.images  # noqa: B018
    except ModelFileError as e:
        raise ModelFileError(f"{packed.path}: {e}") from e
    reference = find_reference(packed, reference)
    _check_measurable(gates, options, data=data is not None, reference=reference is not None)

    under_test = load(packed, reference=reference, data=data, options=options, progress=progress)
    measured = measure(under_test, options, original=original, progress=progress)
    verdicts = judge(measured, gates)
    recorded = options.to_dict() | asdict(gates) | {"session_config": SESSION_CONFIG}
    return report(
        packed.path,
        under_test,
        measured,
        verdicts=verdicts,
        notes=notes(under_test, measured, options),
        machine=state,
        provenance=Provenance.of(recorded, started),
    )


def _check_measurable(gates: Gates, options: VerifyOptions, *, data: bool, reference: bool) -> None:
    gates.require(data=data, dense_model=reference, robustness=options.robustness is not None)
    if options.robustness is not None and not (data and reference):
        raise ConfigError("robustness is measured on data against the dense model; both are needed")
