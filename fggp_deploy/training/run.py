"""What every training stage shares: train, keep savepoints, measure, write the checkpoints."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from fggp_deploy.checkpoints.checkpoint import CheckpointInfo
from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.checkpoints.run_folder import RESUME
from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import FggpWarning, MachineError, Stopped, TrainingDiverged, command
from fggp_deploy.models import recorded
from fggp_deploy.pruning.masks import MaskSet, tensor_digest
from fggp_deploy.training import savepoint
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.interruption import Interruption
from fggp_deploy.training.log import RunLog
from fggp_deploy.training.loop import accuracy, training_steps
from fggp_deploy.training.observer import Observer
from fggp_deploy.training.parent import parent_accuracy
from fggp_deploy.training.result import RunResult
from fggp_deploy.training.resume import Origin
from fggp_deploy.training.session import Session
from fggp_deploy.training.settle import ensemble_accuracy, settled_model
from fggp_deploy.training.stages import Stage
from fggp_deploy.training.start import count_macs, to_checkpoint


@dataclass(frozen=True)
class Run:
    """A run that is ready to go, from its first step or from where its session stands.

    `result_name`: of the last target's checkpoint. `origin`: what a process that goes on must find
    unchanged. `parent_sha256`: hash of the parent's file as it came. `names`: our names of
    parameters → the user's, where they differ. `prepared`: seconds that making it ready took.
    """

    folder: Path
    result_name: str
    session: Session
    origin: Origin
    parent_sha256: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    prepared: float = 0.0

    def go(self, observer: Observer) -> RunResult:
        """Run to the end; the folder is held by the caller. All ranks call.

        Raises Stopped after SIGINT or SIGTERM, when all is saved, and TrainingDiverged, after
        which the savepoints of before remain.
        """
        s = self.session
        began, earlier = time.monotonic(), s.position.seconds + self.prepared
        s.position.seconds = earlier
        with Interruption() as interruption, contextlib.ExitStack() as stack:
            log = observer
            if s.ranks.leads:
                log = RunLog(self.folder, observer, step=s.position.step)
                stack.callback(log.close)
            log.on_start(self.folder, s.config.epochs, s.n_steps, s.position.step)
            parent = parent_accuracy(s) if s.position.step == 0 else None
            if parent is not None:
                log.on_parent(parent)
            saved = began
            if s.n_steps == 0:
                self._keep(s.stages[-1])
            try:
                for step in training_steps(s, log):
                    s.position.seconds = earlier + time.monotonic() - began
                    for stage in s.stages:
                        if stage.end == step:
                            self._keep(stage)
                    if step == s.n_steps:
                        break
                    due = time.monotonic() - saved >= 60 * s.config.save_every
                    received, due_to_any = s.ranks.most(interruption.received or 0, due)
                    if received:
                        self._save()
                        raise Stopped(signal.Signals(received), step, s.n_steps, self.folder)
                    if due_to_any:
                        self._try_to_save()
                        saved = time.monotonic()
            except TrainingDiverged as e:
                raise TrainingDiverged(f"{e}; {self._what_is_left()}") from e
        return self._finish()

    def checkpoint_path(self, stage: Stage) -> Path:
        """Where a target's network goes; the last one of several is also at `result_name`."""
        if len(self.session.stages) == 1:
            return self.folder / self.result_name
        digits = f"{stage.target:.2f}"
        number = digits if float(digits) == stage.target else f"{stage.target:g}"
        return self.folder / self.result_name.replace(".", f"-{number}.", 1)

    def _keep(self, stage: Stage) -> None:
        """Write the checkpoint of a target that is reached, with what it can do."""
        s = self.session
        began = datetime.now(UTC) - timedelta(seconds=s.position.seconds)
        s.check_finite()
        if stage.end == s.n_steps:
            s.pruner.finish()
        train, test = s.batches(s.data.train), s.batches(s.data.test)
        model = settled_model(s, train)
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
            "parent_test_accuracy": self._parent_accuracy,
        }
        provenance = Provenance.of(s.config.to_dict(), began).to_dict()
        info = replace(self._info, target=stage.target, metrics=metrics, provenance=provenance)
        checkpoint = to_checkpoint(model, s.pruner.all_masks(), info)
        paths = [self.checkpoint_path(stage)]
        if stage.end == s.n_steps and len(s.stages) > 1:
            paths.append(self.folder / self.result_name)
        for path in paths:
            s.ranks.from_lead(partial(checkpoint.save, path))

    def _finish(self) -> RunResult:
        return self.session.ranks.from_lead(self._summarise)

    def _summarise(self) -> RunResult:
        """Write the summary; the savepoints are not needed any more."""
        paths = [self.checkpoint_path(stage) for stage in self.session.stages]
        result = RunResult.of(self.folder / self.result_name, paths)
        result.save()
        shutil.rmtree(self.folder / RESUME, ignore_errors=True)
        return result

    def _try_to_save(self) -> None:
        """Save; a full disk is no reason to lose what is in memory, so it only gets a warning."""
        try:
            self._save()
        except MachineError as e:
            again = self.session.config.save_every
            warnings.warn(
                f"{e}; the run goes on without a savepoint and tries again in {again:g} minutes",
                FggpWarning,
                stacklevel=2,
            )

    def _save(self) -> None:
        s = self.session
        s.check_finite()
        checkpoint = to_checkpoint(s.model, s.pruner.all_masks(), self._info)
        state = s.state_dict() | {"origin": self.origin.to_dict()}
        step = s.position.step
        s.ranks.from_lead(lambda: savepoint.write(self.folder, step, checkpoint, state))

    def _what_is_left(self) -> str:
        if any((self.folder / RESUME).glob("*")):
            prune = command("fggp-deploy", "prune", "--checkpoint", self.folder)
            return (
                f"the last good state is kept: {prune} starts a new run from it, with other options"
            )
        return f"nothing was saved yet (--save-every {self.session.config.save_every:g} minutes)"

    @cached_property
    def _parent_accuracy(self) -> float | None:
        """The parent's on the test split; None without a parent."""
        s = self.session
        return None if s.teacher is None else accuracy(s.teacher, s.batches(s.data.test))

    @cached_property
    def _info(self) -> CheckpointInfo:
        """What every checkpoint of the run says of itself."""
        s = self.session
        return CheckpointInfo(
            model=recorded(s.config.model, self.folder),
            model_code_sha256=self.origin.model_code_sha256,
            data=s.data.name,
            classes=s.data.classes,
            preprocessing=s.data.preprocessing,
            prunable=tuple(s.pruner.masks),
            target=s.config.targets[-1],
            method=s.config.method if isinstance(s.config, PruneConfig) else None,
            macs=count_macs(s.model, s.data.preprocessing.input_shape),
            reference_sha256=self.parent_sha256,
            names=self.names,
        )


def warn_if_missed(target: float, masks: MaskSet) -> None:
    """Say so where a method did not reach its target, as filters and blocks may not."""
    if masks.n_removed < round((target - 1e-4) * masks.n_total):
        warnings.warn(
            f"{masks.sparsity:.2%} of the weights are removed, not {target:.2%}: the method could "
            f"remove no more",
            FggpWarning,
            stacklevel=2,
        )


def warn_if_guessing(test_accuracy: float, data: Dataset) -> None:
    """Say so if a network is no better than always giving the test images' most frequent class.

    Within two standard errors of that, since a few test images show little.
    """
    n = len(data.test)
    share = float(np.bincount(data.test.labels).max()) / n
    if test_accuracy <= share + 2 * math.sqrt(share * (1 - share) / n):
        warnings.warn(
            f"the result is no better than guessing: {test_accuracy:.1%} of the test images of "
            f"{data.name} are right, and always giving its most frequent class is right on "
            f"{share:.1%} (n = {n:,}); check --data, the order of its classes, --mean, --std and "
            f"--lr, and train longer",
            FggpWarning,
            stacklevel=3,
        )
