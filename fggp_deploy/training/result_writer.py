"""Write the results of a run: a checkpoint per target, and the summary."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path

from fggp_deploy.checkpoints.checkpoint import CheckpointInfo
from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.checkpoints.run_folder import RESUME
from fggp_deploy.models import recorded
from fggp_deploy.models.checkpointing import to_checkpoint
from fggp_deploy.models.probing import count_macs
from fggp_deploy.pruning.masks import tensor_digest
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.evaluation import accuracy, warn_if_guessing, warn_if_missed
from fggp_deploy.training.final_averaging import ensemble_accuracy, final_model
from fggp_deploy.training.result import RunResult
from fggp_deploy.training.session import Session
from fggp_deploy.training.stages import Stage


@dataclass(frozen=True, kw_only=True)
class ResultWriter:
    """Writes what a session reaches into the run's folder.

    `name`: of the last target's checkpoint. `model_code_sha256`: of the user's own file that makes
    the network. `dense_sha256`: of the dense model's file as it was given. `names`: our names of
    parameters → the user's, if they differ.
    """

    folder: Path
    name: str
    session: Session
    model_code_sha256: str | None
    dense_sha256: str | None
    names: Mapping[str, str]

    def keep(self, stage: Stage) -> None:
        """Write the checkpoint of a target that is reached, with its accuracy. All ranks call."""
        s = self.session
        began = datetime.now(UTC) - timedelta(seconds=s.position.seconds)
        s.check_finite()
        if stage.end == s.n_steps:
            s.pruner.finish()
        train, test = s.batches(s.data.train), s.batches(s.data.test)
        model = final_model(s, train)
        masks, weights = s.pruner.masks, dict(model.state_dict())
        warn_if_missed(stage.target, masks)
        test_accuracy = accuracy(model, test)
        warn_if_guessing(test_accuracy, s.data)
        metrics = {
            "target": stage.target,
            "val_accuracy": accuracy(model, s.batches(s.data.val)),
            "test_accuracy": test_accuracy,
            "ensemble_test_accuracy": ensemble_accuracy(s, train, test),
            "n_test": len(s.data.test),
            "n_prunable": masks.n_total,
            "n_removed": masks.n_removed,
            "digest": tensor_digest(weights | {f"mask/{n}": m for n, m in masks.items()}),
            "parent_test_accuracy": self._dense_test_accuracy,
        }
        provenance = Provenance.of(s.config.to_dict(), began).to_dict()
        info = replace(self.info, target=stage.target, metrics=metrics, provenance=provenance)
        checkpoint = to_checkpoint(model, s.pruner.all_masks(), info)
        paths = [self._path(stage)]
        if stage.end == s.n_steps and len(s.stages) > 1:
            paths.append(self.folder / self.name)
        for path in paths:
            s.ranks.from_lead(partial(checkpoint.save, path))

    def finish(self) -> RunResult:
        """Write the summary, and remove the savepoints."""
        paths = [self._path(stage) for stage in self.session.stages]
        result = RunResult.of(self.folder / self.name, paths)
        result.save()
        shutil.rmtree(self.folder / RESUME, ignore_errors=True)
        return result

    @cached_property
    def info(self) -> CheckpointInfo:
        """The description that every checkpoint of the run has in common."""
        s = self.session
        return CheckpointInfo(
            model=recorded(s.config.model, self.folder),
            model_code_sha256=self.model_code_sha256,
            data=s.data.name,
            classes=s.data.classes,
            preprocessing=s.data.preprocessing,
            prunable=tuple(s.pruner.masks),
            target=s.config.targets[-1],
            method=s.config.method if isinstance(s.config, PruneConfig) else None,
            macs=count_macs(s.model, s.data.preprocessing.input_shape),
            reference_sha256=self.dense_sha256,
            names=self.names,
        )

    def _path(self, stage: Stage) -> Path:
        """The checkpoint of a target; the last one of several is also written as `name`."""
        if len(self.session.stages) == 1:
            return self.folder / self.name
        digits = f"{stage.target:.2f}"
        number = digits if float(digits) == stage.target else f"{stage.target:g}"
        return self.folder / self.name.replace(".", f"-{number}.", 1)

    @cached_property
    def _dense_test_accuracy(self) -> float | None:
        s = self.session
        return None if s.teacher is None else accuracy(s.teacher, s.batches(s.data.test))
