"""A network as you may have it: plain PyTorch, nothing from fggp-deploy."""

from torch import nn


def make(num_classes: int = 10, in_channels: int = 1) -> nn.Module:
    """A network from [N, in_channels, 28, 28] to [N, num_classes], with 0.4 million weights."""

    def block(cin: int, cout: int, stride: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(cout), nn.ReLU()]

    return nn.Sequential(
        *block(in_channels, 16),
        *block(16, 32, 2),
        *block(32, 64),
        *block(64, 128, 2),
        *block(128, 256, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, num_classes),
    )
