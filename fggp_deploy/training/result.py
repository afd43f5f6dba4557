"""The result of a finished run, and its summary file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.checkpoints.run_folder import SUMMARY
from fggp_deploy.common.files import write_atomic
from fggp_deploy.errors import CheckpointError


@dataclass(frozen=True)
class TargetResult:
    """The network of one target. Accuracies in [0, 1]; `digest`: over weights and masks.

    `ensemble_test_accuracy`: of networks drawn around it, None without --ensemble.
    """

    target: float
    checkpoint: Path
    val_accuracy: float
    test_accuracy: float
    n_prunable: int
    n_removed: int
    digest: str
    ensemble_test_accuracy: float | None = None

    @classmethod
    def of(cls, checkpoint: Path, metrics: Mapping[str, Any]) -> TargetResult:
        """From the metrics that a run recorded in a checkpoint."""
        names = (f.name for f in fields(cls) if f.name != "checkpoint")
        known = {name: metrics[name] for name in names if name in metrics}
        return cls(checkpoint=checkpoint, **known)


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run. Accuracies in [0, 1] on the test split.

    `checkpoint`, `test_accuracy`, `n_removed`, `digest`: of the last target; `results`: of each.
    `parent_accuracy`: of the dense model. `digest`: over weights and masks (name, dtype, shape,
    bytes). `seconds`: including those before the run was interrupted. `pattern`: of the removed
    blocks, None for single weights.
    """

    folder: Path
    checkpoint: Path
    test_accuracy: float
    parent_accuracy: float | None
    n_test: int
    n_prunable: int
    n_removed: int
    digest: str
    seconds: float
    results: tuple[TargetResult, ...]
    pattern: str | None = None

    @classmethod
    def of(cls, checkpoint: Path, paths: Sequence[Path]) -> RunResult:
        """From the run's main checkpoint and `paths`, one per target, the last target last.

        Raises CheckpointError if one is missing or damaged.
        """
        described = [(path, Checkpoint.open(path).info) for path in paths]
        infos = [(path, info) for path, info in described if info is not None]
        results = tuple(TargetResult.of(path, info.metrics) for path, info in infos)
        last, info = results[-1], infos[-1][1]
        return cls(
            folder=checkpoint.parent,
            checkpoint=checkpoint,
            test_accuracy=last.test_accuracy,
            parent_accuracy=info.metrics["parent_test_accuracy"],
            n_test=info.metrics["n_test"],
            n_prunable=last.n_prunable,
            n_removed=last.n_removed,
            digest=last.digest,
            seconds=info.provenance["seconds"],
            results=results,
            pattern=info.provenance["config"].get("pattern"),
        )

    def save(self) -> None:
        """Write the summary into the run's folder, with paths relative to it."""
        d = asdict(self)
        for part in (d, *d["results"]):
            part["checkpoint"] = part["checkpoint"].name
        del d["folder"]
        write_atomic(self.folder / SUMMARY, json.dumps(d, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> RunResult:
        """Read a run's summary; raises CheckpointError if it is damaged."""
        path = folder / SUMMARY
        try:
            d = json.loads(path.read_text(encoding="utf-8"))
            results = tuple(TargetResult(**_with_path(folder, r)) for r in d.pop("results"))
            return cls(folder=folder, results=results, **_with_path(folder, d))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise CheckpointError(f"{path} is damaged ({e}); delete it to resume the run") from e


def _with_path(folder: Path, d: Mapping[str, Any]) -> dict[str, Any]:
    return {**d, "checkpoint": folder / Path(str(d["checkpoint"])).name}
