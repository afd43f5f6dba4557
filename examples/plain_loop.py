"""Prune in your own training loop with three calls, then export one ONNX file.

python examples/plain_loop.py model.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fggp_deploy import FGGP, Cubic, Pruner, data, export_model

EPOCHS, BATCH = 1, 128


def main(out: Path) -> None:
    torch.manual_seed(0)
    images = data.load()
    x = torch.from_numpy(images.preprocessing(images.train.images))
    y = torch.from_numpy(images.train.labels)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(),
        nn.Conv2d(16, 64, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    n_steps = EPOCHS * (len(x) // BATCH)

    pruner = Pruner(model, FGGP(rate=0.5), Cubic(0.9, steps=n_steps), optimizer=optimizer)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[index]), y[index])
            loss.backward()
            pruner.after_backward()
            optimizer.step()
            pruner.after_step()
        print(f"loss {loss.item():.3f}  sparsity {pruner.masks.sparsity:.2%}")
    masks = pruner.finish()
    path = export_model(model, out, preprocessing=images.preprocessing, classes=images.classes)
    print(f"{path.name}: {path.stat().st_size} bytes")
    print(f"removed {masks.n_removed} of {masks.n_total}, digest {masks.digest()[:16]}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "model.onnx"))
