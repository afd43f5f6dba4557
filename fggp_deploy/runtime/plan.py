"""What to run on this machine: a variant for each layer, and dense where sparse does not pay."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fggp_deploy import kernels
from fggp_deploy.artifacts.provenance import machine
from fggp_deploy.files import atomic_path

# Pairs of runs behind the choice, and the seconds after which no new pair starts.
MIN_PAIRS, MAX_SECONDS = 21, 20.0


@dataclass(frozen=True)
class Plan:
    """`sparse` False: plain ONNX Runtime is as fast; else a variant for each step of each region.

    `ratio` is dense time over sparse time: the lower end of a 95% interval of the median.
    """

    sparse: bool
    variants: list[list[tuple[int, int]]]
    ratio: float

    def to_json(self) -> str:
        """What the cache holds."""
        return json.dumps({"sparse": self.sparse, "variants": self.variants, "ratio": self.ratio})

    @staticmethod
    def from_json(text: str) -> Plan:
        """Raises ValueError, KeyError or TypeError for anything but a plan."""
        data = json.loads(text)
        variants = [[(int(a), int(b)) for a, b in region] for region in data["variants"]]
        return Plan(bool(data["sparse"]), variants, float(data["ratio"]))


def cache_path(model: bytes, *, threads: int) -> Path:
    """Where the plan for this model on this machine lies."""
    library = kernels.library_path()
    parts = [
        hashlib.sha256(model).hexdigest(),
        hashlib.sha256(library.read_bytes()).hexdigest() if library else "",
        machine()["cpu"],
        os.environ.get("FGGP_ISA", "") or ",".join(kernels.isas()),
        str(os.cpu_count()),
        str(ort.__version__),
        str(threads),
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "fggp-deploy" / "plans" / f"{key}.json"


def load(path: Path) -> Plan | None:
    """A cached plan, or None where there is none that can be read."""
    try:
        return Plan.from_json(path.read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(path: Path, plan: Plan) -> None:
    """Keep a plan; a cache that cannot be written is no error."""
    try:
        with atomic_path(path) as tmp:
            tmp.write_text(plan.to_json())
    except Exception:
        return


def ratio_lower_bound(ratios: npt.NDArray[np.float64]) -> float:
    """Lower end of the 95% interval of the median, by order statistics: no distribution assumed."""
    ordered = np.sort(ratios)
    rank = math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered)))
    return float(ordered[max(rank, 0)])


def interleaved(
    slow: Callable[[], object], fast: Callable[[], object], *, pairs: int, seconds: float
) -> npt.NDArray[np.float64]:
    """Time of `slow` over time of `fast`, pair by pair; at least 5 pairs, both warmed up first."""
    for _ in range(2):
        slow()
        fast()
    ratios: list[float] = []
    start = time.perf_counter()
    while len(ratios) < pairs and (len(ratios) < 5 or time.perf_counter() - start < seconds):
        times = []
        for run in (slow, fast):
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
        ratios.append(times[0] / times[1])
    return np.array(ratios)
