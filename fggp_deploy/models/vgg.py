"""VGG with batch norm for 32×32 images (Simonyan & Zisserman 2014, arXiv 1409.1556)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

_POOL = 0
_WIDTHS = (64, 128, 256, 512, 512)  # of the five stages, with a max-pool between them


def vgg(depths: tuple[int, ...]) -> Callable[[int, int], VGG]:
    """VGG-(sum of `depths` + 3) as in the pruning literature: one Linear instead of three."""
    plan = [w for d, width in zip(depths, _WIDTHS, strict=True) for w in (*[width] * d, _POOL)]
    return lambda num_classes, in_channels: VGG(
        tuple(plan[:-1]), num_classes=num_classes, in_channels=in_channels
    )


class VGG(nn.Module):
    """3×3 convolutions with batch norm, max-pools, global average pooling and one Linear."""

    def __init__(self, plan: tuple[int, ...], *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c = in_channels
        for width in plan:
            if width == _POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [
                nn.Conv2d(c, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            c = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, C, 32, 32] → logits [N, num_classes]."""
        return self.fc(self.pool(self.features(x)).flatten(1))
