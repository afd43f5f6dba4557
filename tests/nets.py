"""Small networks that between them have every kind of layer the formats must carry."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fggp_deploy.artifacts.metadata import Metadata
from fggp_deploy.artifacts.selftest import SelfTest
from fggp_deploy.data.types import Preprocessing


class Small(nn.Module):
    """Plain, strided, grouped and dilated convolutions, a residual sum, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.strided = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.grouped = nn.Conv2d(64, 64, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(64, 64, 3, padding=2, dilation=2, bias=False)
        self.shortcut = nn.Sequential(
            nn.Conv2d(32, 64, 1, stride=2, bias=False), nn.BatchNorm2d(64)
        )
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.strided(x)))
        y = torch.relu(self.grouped(y))
        y = torch.relu(self.dilated(y) + self.shortcut(x))
        return self.fc(y.mean((2, 3)))


def sparse_small(sparsity: float = 0.95, seed: int = 0) -> Small:
    """A `Small` with random masks and batch norms that have seen some data."""
    torch.manual_seed(seed)
    net = Small()
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim > 1:
                p.mul_(torch.rand_like(p) >= sparsity)
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.uniform_(-0.5, 0.5)
                m.running_var.uniform_(0.5, 2)
                m.weight.uniform_(-1, 2)
                m.bias.uniform_(-0.5, 0.5)
    return net.eval()


def metadata(size: int = 12, classes: int = 10) -> Metadata:
    preprocessing = Preprocessing(size, size, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    logits = np.linspace(-1, 1, 2 * classes, dtype=np.float32).reshape(2, classes)
    return Metadata(
        preprocessing, tuple(f"c{i}" for i in range(classes)), SelfTest(7, logits), model="small"
    )
