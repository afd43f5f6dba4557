"""Data augmentation: the presets, and how they are applied to a whole batch.

- none: no change.
- basic: a random shift, and a mirror image half of the time.
- strong: basic, then one random operation of TrivialAugmentWide (Müller & Hutter 2021, arXiv
  2103.10158) and, for a quarter of the images, a random rectangle set to the mean (Zhong et al.
  2017, arXiv 1708.04896).

Batches in memory are augmented on their device, all images at once. Streamed images go through
torchvision's transforms one by one, with a random resized crop instead of the shift in strong; see
stream_batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fggp_deploy.training.trivial_augment import N_BINS, N_OPERATIONS, trivial_augment

_ERASED = 0.25  # of the images
_ERASED_AREA = (0.02, 0.33)
_ERASED_RATIO = (0.3, 3.3)


@dataclass(frozen=True)
class Augmentation:
    """A preset (none, basic, strong), whether mirror images keep their label, and the shift."""

    preset: str
    flip: bool
    crop_padding: int


@dataclass(frozen=True)
class Draws:
    """The random choices for a batch of n images, on the CPU.

    `shift` int64 [2, n] in 0 … 2·padding, `mirrored` bool [n]; only in strong `operation` int64
    [n], `strength` [n] in −1 … 1, and `rectangles` int64 [4, n]: top, left, height, width.
    """

    shift: Tensor
    mirrored: Tensor
    operation: Tensor | None = None
    strength: Tensor | None = None
    rectangles: Tensor | None = None

    def part(self, share: slice) -> Draws:
        """The choices for some of the images."""
        drawn = {n: t for n, t in vars(self).items() if t is not None}
        return Draws(**{n: t[..., share] for n, t in drawn.items()})


def draw(
    augmentation: Augmentation, n: int, size: tuple[int, int], generator: torch.Generator
) -> Draws:
    """Choose for n images of `size` (height, width), independently, from a CPU generator."""
    padding = augmentation.crop_padding
    shift = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
    mirrored = (torch.rand(n, generator=generator) < 0.5) & augmentation.flip
    if augmentation.preset != "strong":
        return Draws(shift, mirrored)
    operation = torch.randint(0, N_OPERATIONS, (n,), generator=generator)
    level = torch.randint(0, N_BINS, (n,), generator=generator) / (N_BINS - 1)
    sign = 1 - 2 * torch.randint(0, 2, (n,), generator=generator)
    return Draws(shift, mirrored, operation, level * sign, draw_rectangles(n, size, generator))


def apply(augmentation: Augmentation, x: Tensor, draws: Draws) -> Tensor:
    """Augment x, uint8 [B, C, H, W], on its device; `erase` comes later, after normalization."""
    if augmentation.preset == "none":
        return x
    x = crop_and_flip(x, augmentation.crop_padding, draws.shift, draws.mirrored)
    if draws.operation is not None and draws.strength is not None:
        x = trivial_augment(x, draws.operation, draws.strength)
    return x


def crop_and_flip(x: Tensor, padding: int, shift: Tensor, mirrored: Tensor) -> Tensor:
    """Shift each image of x, uint8 [B, C, H, W], and mirror some; the border is filled with 0."""
    b, _, h, w = x.shape
    dy, dx = shift.to(x.device)
    rows = torch.arange(h, device=x.device) + dy[:, None]
    cols = torch.arange(w, device=x.device).expand(b, w)
    cols = torch.where(mirrored.to(x.device)[:, None], w - 1 - cols, cols) + dx[:, None]
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    at = torch.arange(b, device=x.device)
    return padded[at[:, None, None], rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def draw_rectangles(n: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Top, left, height, width of a rectangle for each image, int64 [4, n]; 0 × 0 for most."""
    chosen, area, ratio, top, left = torch.rand((5, n), generator=generator)
    low, high = _ERASED_AREA
    pixels = (low + area * (high - low)) * size[0] * size[1]
    low, high = (math.log(r) for r in _ERASED_RATIO)
    ratio = (low + ratio * (high - low)).exp()
    height = (pixels * ratio).sqrt().round().clamp(max=size[0]) * (chosen < _ERASED)
    width = (pixels / ratio).sqrt().round().clamp(max=size[1]) * (chosen < _ERASED)
    top, left = (top * (size[0] - height + 1)).floor(), (left * (size[1] - width + 1)).floor()
    return torch.stack([top, left, height, width]).long()


def erase(x: Tensor, rectangles: Tensor) -> Tensor:
    """Set the rectangles, int64 [4, B], of normalized x [B, C, H, W] to 0, the data's mean."""
    top, left, height, width = rectangles.to(x.device)[:, :, None]
    rows = torch.arange(x.shape[2], device=x.device)
    cols = torch.arange(x.shape[3], device=x.device)
    in_rows = (rows >= top) & (rows < top + height)
    in_cols = (cols >= left) & (cols < left + width)
    return x.masked_fill((in_rows[:, :, None] & in_cols[:, None, :])[:, None], 0)
