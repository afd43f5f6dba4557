"""The report of a benchmark as plain data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.measure.latency import Speedup, Timing
from fggp_deploy.measure.machine import Machine
from fggp_deploy.measure.statistics import Proportion
from fggp_deploy.runtime.costs import LayerCost

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ContenderTiming:
    """One contender at one setting; `speedup` is None for dense itself.

    `max_rel` is the largest difference to dense's outputs, relative to the largest of them.
    """

    contender: str
    threads: int
    batch: int
    timing: Timing
    speedup: Speedup | None
    max_rel: float


@dataclass(frozen=True)
class KernelLayers:
    """Time per layer on one thread, and the plan; no layers if none runs on the kernels."""

    plan: str
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True)
class PlanAtSetting:
    """What `runtime.explain` says of the kernels at one setting; "plain: …" is not timed."""

    threads: int
    batch: int
    plan: str


@dataclass(frozen=True)
class ContenderAccuracy:
    """Top-1 accuracy on the test images, and the share of equal predictions with dense."""

    top1: Proportion
    agreement: Proportion


@dataclass(frozen=True)
class ContenderResult:
    """A contender in words, its stored bytes, and its accuracy if there are real images."""

    name: str
    what: str
    file_bytes: int
    scored: ContenderAccuracy | None


@dataclass(frozen=True)
class BenchReport:
    """Everything that was measured on one model; `notes` say what could not be.

    `rivals` are the contenders, under the key that readers of the JSON know.
    """

    model: str
    sha256: str
    packed: bool
    rivals: tuple[ContenderResult, ...]
    plans: tuple[PlanAtSetting, ...]
    cells: tuple[ContenderTiming, ...]
    layers: KernelLayers | None
    notes: tuple[str, ...]
    isa: str
    machine: Machine
    load_average_after: float | None
    provenance: Provenance

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, `schema_version` included."""
        head = {"schema_version": SCHEMA_VERSION}
        plain: dict[str, Any] = json.loads(json.dumps(head | asdict(self), allow_nan=False))
        return plain
