"""Prune with a callback for Lightning's Trainer, then export one ONNX file.

pip install "fggp-deploy[lightning]"
python examples/lightning_callback.py model.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fggp_deploy import data, export_model
from fggp_deploy.integrations.lightning import PruningCallback


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(),
            nn.Conv2d(16, 64, 3, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main(out: Path) -> None:
    seed_everything(0)
    images = data.load()
    part = images.train.sample(4096)
    x = torch.from_numpy(images.preprocessing(part.images))
    loader = DataLoader(TensorDataset(x, torch.from_numpy(part.labels)), 64, shuffle=True)
    model, pruning = Classifier(), PruningCallback(target=0.9)
    trainer = Trainer(
        max_epochs=1, accumulate_grad_batches=2, callbacks=[pruning], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, loader)
    masks = pruning.pruner.masks
    path = export_model(model.net, out, preprocessing=images.preprocessing, classes=images.classes)
    print(f"{path.name}: {path.stat().st_size} bytes")
    print(f"removed {masks.n_removed} of {masks.n_total}, digest {masks.digest()[:16]}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "model.onnx"))
