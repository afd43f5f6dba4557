"""MobileNetV2 for small images (Sandler et al. 2018, arXiv 1801.04381)."""

from __future__ import annotations

from torch import nn

from fggp_deploy.common.torchvision_import import import_torchvision

# (expansion, channels, repeats, stride); stage 2 has stride 1 here, 2 in the paper
_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip


def mobilenet_v2(num_classes: int, in_channels: int) -> nn.Module:
    """torchvision's MobileNetV2 with stride 1 in the stem and the second stage: 32×32 ends as 4×4.

    Its parameters have torchvision's names and shapes, so ImageNet weights fit except the head.
    """
    import_torchvision()
    from torchvision.models import MobileNetV2

    net = MobileNetV2(num_classes, inverted_residual_setting=[list(s) for s in _STAGES])
    width = net.features[0][0].out_channels
    stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    net.features[0][0] = stem
    return net
