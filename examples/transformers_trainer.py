"""Prune with a callback for the Hugging Face Trainer, then export one ONNX file.

pip install "fggp-deploy[transformers]"
python examples/transformers_trainer.py model.onnx
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from fggp_deploy import data, export_model
from fggp_deploy.integrations.transformers import PruningCallback


class Logits(nn.Module):
    """The model as a function from images to logits, which is what `export_model` needs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


def main(out: Path) -> None:
    set_seed(0)
    images = data.load()
    part = images.train.sample(2048)
    x = torch.from_numpy(images.preprocessing(part.images))
    rows = [
        {"pixel_values": image, "labels": label}
        for image, label in zip(x, part.labels.tolist(), strict=True)
    ]
    model = ResNetForImageClassification(
        ResNetConfig(
            num_channels=1, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1],
            layer_type="basic", num_labels=10,
        )
    )  # fmt: skip
    pruning = PruningCallback(target=0.9, updates=10)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=64, learning_rate=2e-3,
            save_strategy="no", report_to=[], disable_tqdm=True,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows, callbacks=[pruning]).train()
    masks = pruning.pruner.masks
    path = export_model(
        Logits(model.cpu()), out, preprocessing=images.preprocessing, classes=images.classes
    )
    print(f"{path.name}: {path.stat().st_size} bytes")
    print(f"removed {masks.n_removed} of {masks.n_total}, digest {masks.digest()[:16]}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "model.onnx"))
