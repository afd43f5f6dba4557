"""What every training stage shares: fit, measure once on the test split, write the checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from fggp_deploy.artifacts.checkpoint import CheckpointInfo
from fggp_deploy.artifacts.provenance import Provenance
from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import FggpWarning
from fggp_deploy.files import write_atomic
from fggp_deploy.folder import INTERRUPTED
from fggp_deploy.masks import MaskSet, tensor_digest
from fggp_deploy.models import canonical
from fggp_deploy.pruner import Pruner
from fggp_deploy.training.batches import n_training_batches, open_batches
from fggp_deploy.training.config import PruneConfig, TrainConfig
from fggp_deploy.training.log import RunLog
from fggp_deploy.training.loop import accuracy, fit
from fggp_deploy.training.observer import Observer
from fggp_deploy.training.start import count_macs, to_checkpoint


@dataclass(frozen=True)
class RunResult:
    """What a finished run made. Accuracies in [0, 1] on the test split, measured once, at the end.

    `digest`: over weights and masks (name, dtype, shape, bytes).
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


@dataclass(frozen=True)
class Run:
    """A run that is ready to go: everything on its device, the folder made.

    `teacher`: the parent network of a pruning run, `parent_sha256` the hash of its file. `names`:
    our names of parameters → the user's, where they differ.
    """

    folder: Path
    result_name: str
    model: nn.Module
    data: Dataset
    config: TrainConfig
    pruner: Pruner
    optimizer: torch.optim.Optimizer
    device: torch.device
    teacher: nn.Module | None = None
    parent_sha256: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def go(self, observer: Observer) -> RunResult:
        """Run to the end.

        On an error or Ctrl-C the weights and masks so far are kept as `interrupted.safetensors`,
        a sparse checkpoint that `prune` can start from.
        """
        began = datetime.now(UTC)
        config = yaml.safe_dump(self.config.to_dict(), sort_keys=False)
        write_atomic(self.folder / "config.yaml", config)
        if self.data.held_out is not None:
            self.data.held_out.save_beside(self.folder)
        distill = self.config.distill if isinstance(self.config, PruneConfig) else 0.0
        log = RunLog(self.folder, observer)
        epochs = self.config.epochs
        n_steps = epochs * n_training_batches(self.data, self.config.batch_size)
        try:
            log.on_start(self.folder, epochs, n_steps)
            fit(
                self.model, self.data, self.config, optimizer=self.optimizer, pruner=self.pruner,
                device=self.device, observer=log, distill=distill,
                teacher=self.teacher if distill else None,
            )  # fmt: skip
            return self._finish(self.pruner.finish(), began)
        except BaseException:
            self._keep_interrupted()
            raise
        finally:
            log.close()

    def _finish(self, masks: MaskSet, began: datetime) -> RunResult:
        """Measure on the test split, write the checkpoint."""
        test = open_batches(
            self.data.test, self.data.preprocessing, batch_size=self.config.batch_size,
            device=self.device, workers=self.config.workers,
        )  # fmt: skip
        test_accuracy = accuracy(self.model, test)
        parent_accuracy = accuracy(self.teacher, test) if self.teacher is not None else None
        provenance = Provenance.of(self.config.to_dict(), began)
        info = self._describe(
            metrics={
                "test_accuracy": test_accuracy,
                "parent_test_accuracy": parent_accuracy,
                "n_test": len(self.data.test),
            },
            provenance=provenance.to_dict(),
        )
        path = self.folder / self.result_name
        to_checkpoint(self.model, self.pruner.all_masks(), info).save(path)
        weights = dict(self.model.state_dict())
        return RunResult(
            folder=self.folder,
            checkpoint=path,
            test_accuracy=test_accuracy,
            parent_accuracy=parent_accuracy,
            n_test=len(self.data.test),
            n_prunable=masks.n_total,
            n_removed=masks.n_removed,
            digest=tensor_digest(weights | {f"mask/{n}": m for n, m in masks.items()}),
            seconds=provenance.seconds,
        )

    def _keep_interrupted(self) -> None:
        self.pruner.state.zero_removed_()
        if all(bool(torch.isfinite(t).all()) for t in self.model.state_dict().values()):
            info = self._describe(metrics={}, provenance={})
            checkpoint = to_checkpoint(self.model, self.pruner.all_masks(), info)
            checkpoint.save(self.folder / INTERRUPTED)
            warnings.warn(
                f"the weights and masks so far are in {self.folder / INTERRUPTED}; "
                f"prune --checkpoint goes on from it",
                FggpWarning,
                stacklevel=2,
            )

    def _describe(
        self, *, metrics: Mapping[str, Any], provenance: Mapping[str, Any]
    ) -> CheckpointInfo:
        config = self.config
        return CheckpointInfo(
            model=canonical(config.model),
            data=self.data.name,
            classes=self.data.classes,
            preprocessing=self.data.preprocessing,
            prunable=tuple(self.pruner.masks),
            target=config.target if isinstance(config, PruneConfig) else config.sparsity,
            method=config.method if isinstance(config, PruneConfig) else None,
            macs=count_macs(self.model, self.data.preprocessing.input_shape),
            reference_sha256=self.parent_sha256,
            names=self.names,
            metrics=metrics,
            provenance=provenance,
        )
