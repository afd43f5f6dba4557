"""TrivialAugmentWide on a whole batch: each image gets its own operation and strength.

The operations and their ranges are those of torchvision's `v2.TrivialAugmentWide`, but a shift is
at most 0.45 of the image's side, since the usual 32 pixels would move a small image out of view.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fggp_deploy.common.torchvision_import import import_torchvision

N_BINS = 31  # strengths of an operation
_MOST_SHIFT, _MOST_SHIFT_SHARE = 32, 0.45  # pixels, and share of the side
_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_BLENDS = ("brightness", "color", "contrast", "sharpness")
_OTHERS = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *_GEOMETRIC, *_BLENDS, *_OTHERS)
N_OPERATIONS = len(OPERATIONS)


def trivial_augment(x: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Apply OPERATIONS[operation[i]] with strength[i] in −1 … 1 to image i of uint8 [B, C, H, W].

    `operation`, `strength` [B] are on the CPU, x on any device.
    """
    x = x.clone(memory_format=torch.contiguous_format)
    last = len(_GEOMETRIC)
    groups: list[tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]] = []
    moved = ((operation >= 1) & (operation <= last)).nonzero()[:, 0]
    groups.append((moved, lambda part, s: _move(part, operation[moved], s)))
    for k in range(last + 1, N_OPERATIONS):
        groups.append(((operation == k).nonzero()[:, 0], _function(OPERATIONS[k])))
    for at, function in groups:
        if len(at):
            on_device = at.to(x.device)
            x[on_device] = function(x[on_device], strength[at])
    return x


def _move(x: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Shear (about the upper left corner), shift or rotate, with nearest pixels and 0 outside."""
    h, w = x.shape[2:]
    theta = torch.eye(2, 3).repeat(len(x), 1, 1)  # where each output pixel is read, in −1 … 1
    for name in _GEOMETRIC:
        at = operation == OPERATIONS.index(name)
        s = strength[at]
        if name == "shear_x":
            theta[at, 0, 1] = theta[at, 0, 2] = 0.99 * s * h / w
        elif name == "shear_y":
            theta[at, 1, 0] = theta[at, 1, 2] = 0.99 * s * w / h
        elif name == "translate_x":
            theta[at, 0, 2] = -2 * (s * min(_MOST_SHIFT, _MOST_SHIFT_SHARE * w)).trunc() / w
        elif name == "translate_y":
            theta[at, 1, 2] = -2 * (s * min(_MOST_SHIFT, _MOST_SHIFT_SHARE * h)).trunc() / h
        else:
            angle = s * math.radians(135)
            theta[at, 0, 0] = theta[at, 1, 1] = angle.cos()
            theta[at, 0, 1] = -angle.sin() * h / w
            theta[at, 1, 0] = angle.sin() * w / h
    grid = F.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), grid, mode="nearest", align_corners=False).to(torch.uint8)


def _function(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    import_torchvision()
    from torchvision.transforms.v2 import functional as v2

    if name == "posterize":
        return _posterize
    if name == "solarize":
        return lambda x, s: torch.where(x >= _per_image(255 * (1 - s.abs()), x), 255 - x, x)
    if name in ("autocontrast", "equalize"):
        whole: Callable[[Tensor], Tensor] = getattr(v2, name)
        return lambda x, s: whole(x)
    towards = {
        "brightness": v2.adjust_brightness,
        "color": v2.adjust_saturation,
        "contrast": v2.adjust_contrast,
        "sharpness": v2.adjust_sharpness,
    }[name]

    def blend(x: Tensor, s: Tensor) -> Tensor:
        none = towards(x, 0.0).float()  # black, gray, flat or blurred: what factor 0 gives
        mixed = none + (x.float() - none) * _per_image(1 + 0.99 * s, x)
        return mixed.clamp(0, 255).to(torch.uint8)

    return blend


def _posterize(x: Tensor, strength: Tensor) -> Tensor:
    dropped = (6 * strength.abs()).round().to(torch.uint8)
    return x & _per_image(torch.full_like(dropped, 255) << dropped, x)


def _per_image(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.device).view(-1, 1, 1, 1)
