"""The report: everything that was measured on one file, as plain data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.format.metadata import removed_before_compaction
from fggp_deploy.format.model import Layer
from fggp_deploy.measure.evaluate import Accuracy, Paired
from fggp_deploy.measure.latency import Latency
from fggp_deploy.measure.machine import Load, Machine
from fggp_deploy.measure.process import Cost
from fggp_deploy.measure.profile import LayerTime
from fggp_deploy.measure.size import Size
from fggp_deploy.runtime.costs import LayerCost
from fggp_deploy.verify.certificate import Certificate
from fggp_deploy.verify.gates import Verdict
from fggp_deploy.verify.history import Epoch
from fggp_deploy.verify.int8 import Int8
from fggp_deploy.verify.locate import Mismatch
from fggp_deploy.verify.parity import Difference
from fggp_deploy.verify.preprocessing_check import InputCheck
from fggp_deploy.verify.robustness import Robustness
from fggp_deploy.verify.schema import SCHEMA_VERSION


@dataclass(frozen=True)
class File:
    """A file or folder as it was verified: its name without folders, its hash and bytes."""

    name: str
    sha256: str
    file_bytes: int


@dataclass(frozen=True)
class Report:
    """Everything that was measured on one file; None is what could not be, and `notes` say why.

    `latency` and `processes` are keyed "model" (on stock onnxruntime), "reference", "int8" (the
    reference quantised) and, where the model runs on them, "kernels": then the gates on latency
    judge those. `other_latencies` are the same at other threads and batches, which no gate
    judges. `parity` is packed against dense by inputs. `kernels_parity` (compiled now),
    `compiled_parity` (the compiled file that sessions open) and `torch_parity` (the network
    that the file was made from) are against stock on all test images, or on the probe inputs
    without data. `rounding` is rounded values against fp32 on the self-test's inputs,
    `rounding_paired` on the test split where a file with fp32 values lies beside the model.
    `mismatch` is the first layer that differs where one of these or the self-test fails. `load`
    is what else ran while latency was measured, `layer_times` is by stock onnxruntime's
    profiler, `kernel_layers` each layer dense and on the kernels, empty where they are not
    used. `history` the curves of the run that lies beside the file. `origin` is what the model
    says of itself, `provenance` what made this report.
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
        """True where every verdict is."""
        return all(v.passed for v in self.verdicts)

    @property
    def sparsity_before_compaction(self) -> float | None:
        """Share removed before dead channels left the file, as it tells; None where none did."""
        return removed_before_compaction(self.origin.get("sparsity") or {})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, `schema_version` and `passed` included."""
        head = {"schema_version": SCHEMA_VERSION, "passed": self.passed}
        plain: dict[str, Any] = json.loads(json.dumps(head | asdict(self), allow_nan=False))
        return plain
