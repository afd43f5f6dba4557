"""A small network and a training loop for tests of pruning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fggp_deploy import Pruner


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.conv2(F.relu(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


def make(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def steps(net: nn.Module, pruner: Pruner, n: int, check=lambda: None) -> None:
    optimizer = pruner.state.optimizer
    for i in range(n):
        g = torch.Generator().manual_seed(i)
        x = torch.randn(8, 1, 8, 8, generator=g)
        y = torch.randint(0, 5, (8,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        pruner.after_backward()
        optimizer.step()
        pruner.after_step()
        check()


def batch(step: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(step)
    return torch.randn(8, 1, 8, 8, generator=g), torch.randint(0, 5, (8,), generator=g)
