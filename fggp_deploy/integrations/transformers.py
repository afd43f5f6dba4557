"""A callback for the Hugging Face Trainer; needs `pip install fggp-deploy[transformers]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fggp_deploy.errors import ConfigError
from fggp_deploy.integrations import Pruning, finish, state_of
from fggp_deploy.pruning.pruner import Pruner

FILE = "fggp_pruner.pt"  # in each of the Trainer's checkpoints


class PruningCallback(TrainerCallback):
    """Prunes the model that a Trainer trains, to `target`.

    `options`: see integrations.Pruning. Works with accumulated gradients, fp16 and DDP, but not
    with FSDP and DeepSpeed, which shard weights. Resumes from the Trainer's checkpoints. `pruner`
    exists after training has begun; its `masks` are the result.
    """

    pruner: Pruner

    def __init__(self, target: float, **options: Any) -> None:
        self._pruning = Pruning(target, **options)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Create the Pruner: the optimizer and the number of steps are known now."""
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])  # accelerate's
        self.pruner = self._pruning.begin(
            kwargs["model"], optimizer, state.max_steps, _saved(args, state)
        )

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The gradients are final."""
        self.pruner.after_backward()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The optimizer has stepped, unless fp16 skipped the step."""
        self.pruner.after_step()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Add the pruner's state to the checkpoint that was just written."""
        if state.is_world_process_zero:
            torch.save(state_of(self.pruner), _checkpoint(args, state) / FILE)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Apply the final masks."""
        finish(self.pruner)


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


def _saved(args: TrainingArguments, state: TrainerState) -> Mapping[str, Any] | None:
    """The pruner's state in the checkpoint from which training resumes; None at step 0."""
    if state.global_step == 0:
        return None
    path = _checkpoint(args, state) / FILE
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing: training can only resume from a checkpoint of a pruning run, in "
            f"its output_dir"
        )
    return torch.load(path, weights_only=True, map_location="cpu")
