"""A callback for Lightning's Trainer; needs `pip install fggp-deploy[lightning]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fggp_deploy.errors import ConfigError
from fggp_deploy.integrations import Pruning, finish, state_of
from fggp_deploy.pruning.pruner import Pruner


class PruningCallback(Callback):
    """Prunes the LightningModule that a Trainer fits, to `target`.

    `options`: see integrations.Pruning. Works with accumulated gradients, 16-bit precision and
    DDP, but not with strategies that shard weights (FSDP, DeepSpeed). Resumes from Lightning's
    checkpoints. `pruner` exists after training has begun; its `masks` are the result.
    """

    pruner: Pruner

    def __init__(self, target: float, **options: Any) -> None:
        self._pruning = Pruning(target, **options)
        self._saved: Mapping[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the Pruner: the optimizer and the number of steps are known now."""
        if len(trainer.optimizers) != 1:
            raise ConfigError(
                "pruning needs exactly one optimizer, but the trainer has "
                f"{len(trainer.optimizers)}"
            )
        steps = trainer.estimated_stepping_batches
        self.pruner = self._pruning.begin(pl_module, trainer.optimizers[0], steps, self._saved)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """The gradients are final."""
        self.pruner.after_backward()

    def on_train_batch_end(self, *_: Any) -> None:
        """The optimizer has stepped, unless gradients are still being accumulated."""
        self.pruner.after_step()

    def on_train_end(self, *_: Any) -> None:
        """Apply the final masks."""
        finish(self.pruner)

    def state_dict(self) -> dict[str, Any]:
        """The state for Lightning's checkpoint."""
        return state_of(self.pruner)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state from Lightning's checkpoint until training begins."""
        self._saved = state_dict
