"""Small networks that between them have every kind of layer the formats must carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fggp_deploy import models
from fggp_deploy.checkpoints.checkpoint import CheckpointInfo
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.models.checkpointing import to_checkpoint
from fggp_deploy.models.loading import load_into
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.pruning.prunable import prunable_parameters


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


class Odd(nn.Module):
    """Layers that no sparse operator knows: other ranks, transposed, linear on sequences, tied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 128, 5, padding=2, groups=32)
        self.up = nn.ConvTranspose2d(128, 32, 3, stride=2, groups=2)
        self.volume = nn.Conv3d(1, 16, (3, 3, 3), padding=1)
        self.mix = nn.Conv3d(16, 32, 3, stride=2)
        self.line = nn.Conv1d(32, 64, 5, padding=2)
        self.linear = nn.Linear(64, 96)
        self.no_bias = nn.Linear(96, 64, bias=False)
        self.tied = nn.Linear(64, 96)
        self.tied.weight = self.linear.weight
        self.fc = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.stem(x))))
        x = torch.relu(self.up(x)).unsqueeze(1)
        x = torch.relu(self.mix(torch.relu(self.volume(x)))).mean(2)
        x = torch.relu(self.line(x.flatten(2))).transpose(1, 2)
        x = self.no_bias(torch.relu(self.linear(x)))
        return self.fc(torch.relu(self.tied(x)).mean(1))


def sparse_odd(sparsity: float = 0.9) -> Odd:
    """An `Odd` with random masks; the weights that remain are He-initialized."""
    torch.manual_seed(0)
    net = Odd()
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim > 1:
                p.normal_(0, (2 / ((1 - sparsity) * p[0].numel())) ** 0.5)
                p.mul_(torch.rand_like(p) >= sparsity)
    return net.eval()


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
        preprocessing,
        tuple(f"c{i}" for i in range(classes)),
        SelfTest.of_logits(7, logits, (3, size, size), atol=1e-4),
        model="small",
    )


class Attention(nn.Module):
    """A transformer block on the patches of 8×8 images, 4 tokens of width 16."""

    def __init__(self, kdim: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.keys = nn.Linear(16, kdim or 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True, kdim=kdim, vdim=kdim)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        keys = self.keys(x)
        return self.head((x + self.attention(x, keys, keys, need_weights=False)[0]).mean(1))


def pruned(path: Path, name: str, size: int, state: dict | None = None) -> nn.Module:
    """Save a checkpoint of a half-pruned network, loaded from `state` if that is given."""
    torch.manual_seed(0)
    net = models.build(name, num_classes=10, in_channels=3).eval()
    names = load_into(net, state, what="m.pt") if state else {}
    params = prunable_parameters(net)
    masks = MaskSet({n: torch.rand_like(p) < 0.5 for n, p in params.items()})
    masks.apply_(params)
    info = CheckpointInfo(
        model=name, data="d", classes=tuple("abcdefghij"), names=names, prunable=tuple(masks),
        preprocessing=Preprocessing(size, size, (0.5,) * 3, (0.25,) * 3),
    )  # fmt: skip
    to_checkpoint(net, masks, info).save(path)
    return net
