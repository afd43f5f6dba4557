"""Residual networks for small images (He et al. 2015, arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Callable[[int, int, int], nn.Module]


class PadShortcut(nn.Module):
    """Option A: take every second pixel and pad the new channels with zeros; no weights."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.pad = stride, (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[N, c_in, H, W] → [N, c_out, ⌈H/stride⌉, ⌈W/stride⌉]."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.pad, self.pad))


def projection(c_in: int, c_out: int, stride: int) -> nn.Module:
    """Option B: a strided 1×1 convolution with batch norm."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out)
    )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        same = stride == 1 and c_in == width
        self.shortcut = nn.Identity() if same else shortcut(c_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, c_in, H, W] → [N, width, H/stride, W/stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, c_in, H, W] → [N, 4·width, H/stride, W/stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3×3 stem, stages that halve the image, global average pooling and one Linear."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        stem_stride: int = 1,
        shortcut: Shortcut = projection,
    ) -> None:
        super().__init__()
        c = widths[0]
        self.conv1 = nn.Conv2d(in_channels, c, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.n_stages = len(depths)
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(block(c, width, 2 if i > 0 and j == 0 else 1, shortcut))
                c = width * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(c, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] → logits [N, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        for i in range(self.n_stages):
            x = getattr(self, f"layer{i + 1}")(x)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.fc(x)


def resnet10s2(num_classes: int, in_channels: int) -> ResNet:
    """The demo's network: stride-2 stem, one block per stage, wide late layers; fast to train."""
    return ResNet(
        BasicBlock, (1, 1, 1, 1), (32, 64, 128, 512),
        num_classes=num_classes, in_channels=in_channels, stem_stride=2,
    )  # fmt: skip


def thin(n_blocks: int, shortcut: Shortcut = PadShortcut) -> Callable[[int, int], ResNet]:
    """ResNet-(6·n_blocks + 2) of the paper's CIFAR section: stages of 16, 32 and 64 channels."""
    return lambda num_classes, in_channels: ResNet(
        BasicBlock, (n_blocks,) * 3, (16, 32, 64),
        num_classes=num_classes, in_channels=in_channels, shortcut=shortcut,
    )  # fmt: skip


def wide(
    block: type[BasicBlock] | type[Bottleneck],
    depths: Sequence[int],
    shortcut: Shortcut = projection,
) -> Callable[[int, int], ResNet]:
    """The ImageNet networks' stages of 64 to 512 channels on a 3×3 stem without max-pool."""
    return lambda num_classes, in_channels: ResNet(
        block, depths, (64, 128, 256, 512),
        num_classes=num_classes, in_channels=in_channels, shortcut=shortcut,
    )  # fmt: skip
