"""Step four, report: everything about one file as plain data.

`fggp_deploy.report` turns it into pages and writes the files.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.common.files import sha256_file
from fggp_deploy.format.metadata import Metadata, removed_before_compaction
from fggp_deploy.format.model import Layer
from fggp_deploy.measure.evaluate import Accuracy, Paired
from fggp_deploy.measure.latency import Latency
from fggp_deploy.measure.machine import Load, Machine
from fggp_deploy.measure.process import Cost
from fggp_deploy.measure.profile import LayerTime
from fggp_deploy.measure.robustness import Robustness
from fggp_deploy.measure.size import Size
from fggp_deploy.runtime.costs import LayerCost
from fggp_deploy.verification.certificate import Certificate
from fggp_deploy.verification.history import Epoch, history
from fggp_deploy.verification.locate import Mismatch
from fggp_deploy.verification.measurements import Measurements
from fggp_deploy.verification.model_under_test import ModelUnderTest
from fggp_deploy.verification.parity import Difference
from fggp_deploy.verification.predictions import Int8
from fggp_deploy.verification.preprocessing_check import InputCheck
from fggp_deploy.verification.schema import SCHEMA_VERSION
from fggp_deploy.verification.verdict import Verdict


@dataclass(frozen=True)
class File:
    """A file or folder as it was verified: its name without folders, its hash and bytes."""

    name: str
    sha256: str
    file_bytes: int


@dataclass(frozen=True)
class Report:
    """Everything that was measured on one file. None means not measured; `notes` say why.

    `latency` and `processes` are keyed "model" (on stock ONNX Runtime), "reference" (the dense
    model), "int8" (the dense int8 baseline) and, if the model runs on them, "kernels"; the gates on
    latency then judge the kernels. `other_latencies` are the same at other threads and batches,
    which no gate judges.

    `parity` is packed against dense by inputs. `kernels_parity` (compiled now), `compiled_parity`
    (the compiled file that sessions open) and `torch_parity` (the network that the file was made
    from) are against stock on all test images or, without data, on the probe inputs. `rounding` is
    rounded values against fp32 on the self-test's inputs; `rounding_paired` is the same on the test
    split, if a file with fp32 values lies beside the model. `mismatch` is the first layer that
    differs if one of these or the self-test fails.

    `load` is what else ran during the latency measurement. `layer_times` comes from stock ONNX
    Runtime's profiler; `kernel_layers` compares each layer, dense and on the kernels. `history` are
    the training curves of the run beside the file. `origin` is what the model says of itself;
    `provenance` is what made this report.
    """

    model: File
    reference: File | None
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    self_test: Difference | None
    parity: dict[str, Difference]
    kernels_parity: Difference | None
    compiled_parity: Difference | None
    torch_parity: Difference | None
    rounding: Difference | None
    rounding_paired: Paired | None
    mismatch: Mismatch | None
    inputs: InputCheck | None
    accuracy: Accuracy | None
    int8: Int8 | None
    robustness: Robustness | None
    size: Size
    latency: Latency
    other_latencies: tuple[Latency, ...]
    load: Load
    layer_times: tuple[LayerTime, ...]
    kernel_layers: tuple[LayerCost, ...]
    processes: dict[str, Cost]
    sparsity: float
    layers: tuple[Layer, ...]
    certificate: Certificate
    history: tuple[Epoch, ...]
    origin: dict[str, Any]
    machine: Machine
    provenance: Provenance

    @property
    def passed(self) -> bool:
        """Whether every verdict passed."""
        return all(v.passed for v in self.verdicts)

    @property
    def sparsity_before_compaction(self) -> float | None:
        """Recorded sparsity before channels were removed; None if the file is not compacted."""
        return removed_before_compaction(self.origin.get("sparsity") or {})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, `schema_version` and `passed` included."""
        head = {"schema_version": SCHEMA_VERSION, "passed": self.passed}
        plain: dict[str, Any] = json.loads(json.dumps(head | asdict(self), allow_nan=False))
        return plain


def report(
    model: Path,
    under_test: ModelUnderTest,
    measured: Measurements,
    *,
    verdicts: tuple[Verdict, ...],
    notes: tuple[str, ...],
    machine: Machine,
    provenance: Provenance,
) -> Report:
    """Lay out what was measured and judged about the file or folder `model`."""
    predicted, dense = measured.predictions, under_test.dense
    layers = under_test.packed.layers
    weights = [layer for layer in layers if layer.of_layer]
    n_weights = sum(layer.size for layer in weights)
    return Report(
        model=File(model.name, sha256_file(model), measured.size.file_bytes),
        reference=None if dense is None else _file(dense.path),
        verdicts=verdicts,
        notes=notes,
        self_test=measured.self_test,
        parity=measured.parity,
        kernels_parity=predicted.kernels,
        compiled_parity=predicted.compiled,
        torch_parity=measured.torch,
        rounding=measured.rounding,
        rounding_paired=predicted.rounding,
        mismatch=measured.mismatch,
        inputs=measured.inputs,
        accuracy=predicted.accuracy,
        int8=predicted.int8,
        robustness=measured.robustness,
        size=measured.size,
        latency=measured.latency,
        other_latencies=measured.other_latencies,
        load=measured.load,
        layer_times=measured.layer_times,
        kernel_layers=measured.kernel_layers,
        processes=measured.processes,
        sparsity=1 - sum(layer.nnz for layer in weights) / max(1, n_weights),
        layers=tuple(layers),
        certificate=measured.certificate,
        history=history(model.parent),
        origin=_origin(under_test.metadata),
        machine=machine,
        provenance=provenance,
    )


def _origin(meta: Metadata) -> dict[str, Any]:
    own = asdict(replace(meta, selftest=None, unrounded=None))
    del own["selftest"], own["unrounded"]  # many logits, and the outcome is in the report
    plain: dict[str, Any] = json.loads(json.dumps(own), parse_constant=str)  # JSON has no NaN
    return plain


def _file(path: Path) -> File:
    return File(path.name, sha256_file(path), path.stat().st_size)
