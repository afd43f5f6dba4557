"""Common image corruptions at severities 1 to 5, in numpy, scipy and Pillow.

After Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", 2019: the kinds are theirs, but the code and the strengths are ours, so results
are not comparable with CIFAR-10-C. Frost, snow and spatter are left out, because they need
photographs or renderers. Lengths are given for images of 32 pixels and scale with the image.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from fggp_deploy.data.types import Images
from fggp_deploy.errors import ConfigError

SEVERITIES = (1, 2, 3, 4, 5)
LEFT_OUT = ("frost", "snow", "spatter")

Batch = npt.NDArray[np.float32]  # [N, H, W, C] in [0, 1]
Corruption = Callable[[Batch, int, np.random.Generator], npt.NDArray[Any]]


def corrupt(images: Images, kind: str, severity: int, rng: np.random.Generator) -> Images:
    """Corrupt uint8 [N, H, W, C]; the same generator state gives the same images.

    Raises ConfigError for an unknown kind, a kind that needs color for gray images, or a severity
    outside 1..5.
    """
    if kind not in kinds(images.shape[-1]) or severity not in SEVERITIES:
        raise ConfigError(f"no corruption {kind!r} of severity {severity} for these images")
    x = _CORRUPTIONS[kind](images.astype(np.float32) / np.float32(255), severity - 1, rng)
    return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)


def kinds(channels: int) -> tuple[str, ...]:
    """The kinds that images of this many channels can have; saturation needs color."""
    return tuple(k for k in _CORRUPTIONS if channels == 3 or k != "saturate")


def _gauss(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    return x + np.float32((0.04, 0.06, 0.08, 0.09, 0.10)[s]) * _normal(x, rng)


def _shot(x: Batch, s: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    photons = (500, 250, 100, 75, 50)[s]
    return rng.poisson(x * photons) / photons


def _impulse(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[s]
    drawn = rng.random(x.shape, dtype=np.float32)
    x = np.where(drawn < share / 2, np.float32(0), x)
    return np.where(drawn > 1 - share / 2, np.float32(1), x)


def _speckle(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    return x + np.float32((0.06, 0.10, 0.12, 0.16, 0.20)[s]) * x * _normal(x, rng)


def _blur(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[s] * _scale(x)
    return _smooth(x, sigma)


def _defocus(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    radius = (0.8, 1.0, 1.25, 1.5, 2.0)[s] * _scale(x)
    reach = math.ceil(radius)
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(i, j), 0, 1)  # an antialiased edge
    return _filtered(x, disc)


def _motion(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    """Motion blur along one of four directions, drawn for each image."""
    reach = max(1, round((1, 1.5, 2, 2.5, 3)[s] * _scale(x)))
    line, side = np.zeros((2 * reach + 1,) * 2), np.arange(2 * reach + 1)
    line[reach] = 1
    diagonal = np.zeros_like(line)
    diagonal[side, side] = 1
    direction, out = rng.integers(4, size=len(x)), np.empty_like(x)
    for d, kernel in enumerate((line, line.T, diagonal, diagonal[::-1])):
        out[direction == d] = _filtered(x[direction == d], kernel)
    return out


def _zoom(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    largest = (1.06, 1.11, 1.16, 1.21, 1.26)[s]
    zooms = np.linspace(1, largest, 6)
    return np.mean([_magnified(x, float(z)) for z in zooms], axis=0, dtype=np.float32)


def _glass(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    """Each pixel is replaced by one near it, then the image is smoothed."""
    reach = max(1, round((1, 1, 1, 2, 2)[s] * _scale(x)))
    share = (0.2, 0.4, 0.7, 0.5, 0.8)[s]
    n, h, w, _ = x.shape
    moved = rng.random((n, h, w)) < share
    di, dj = (moved * rng.integers(-reach, reach + 1, (n, h, w)) for _ in range(2))
    image, i, j = np.ogrid[:n, :h, :w]
    near = x[image, np.clip(i + di, 0, h - 1), np.clip(j + dj, 0, w - 1)]
    return _smooth(near, 0.4 * _scale(x))


def _brightness(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    return x + np.float32((0.05, 0.10, 0.15, 0.20, 0.30)[s])


def _contrast(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + np.float32((0.75, 0.50, 0.40, 0.30, 0.15)[s]) * (x - mean)


def _saturate(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    gray = x.mean(axis=3, keepdims=True)
    return gray + np.float32((0.3, 0.1, 1.5, 2.0, 2.5)[s]) * (x - gray)


def _fog(x: Batch, s: int, rng: np.random.Generator) -> Batch:
    """Smooth noise of several wave lengths, in front of the image."""
    strength = (0.2, 0.5, 0.75, 1.0, 1.5)[s]
    fog = np.zeros(x.shape[:3], np.float32)
    for wave in (2, 4, 8):
        noise = ndimage.gaussian_filter(
            _normal(fog, rng), (0, wave * _scale(x), wave * _scale(x)), mode="wrap"
        )
        fog += wave * noise / noise.std()
    low, high = fog.min(axis=(1, 2), keepdims=True), fog.max(axis=(1, 2), keepdims=True)
    fog = (fog - low) / np.maximum(high - low, 1e-6)
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + strength * fog[..., None]) * brightest / np.maximum(brightest + strength, 1e-6)


def _elastic(x: Batch, s: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Pixels shifted by a smooth random field whose standard deviation is given in pixels."""
    amplitude = (0.4, 0.6, 0.8, 1.0, 1.3)[s] * _scale(x)
    n, h, w, c = x.shape
    shifts = []
    for _ in range(2):
        field = ndimage.gaussian_filter(_normal(x[..., 0], rng), (0, *(3 * _scale(x),) * 2))
        shifts.append(amplitude * field / field.std())
    i, j = (np.arange(side, dtype=np.float32) for side in (h, w))
    rows, columns = i[None, :, None] + shifts[0], j[None, None, :] + shifts[1]
    out = np.empty_like(x)
    for k in range(n):
        for channel in range(c):
            out[k, ..., channel] = ndimage.map_coordinates(
                x[k, ..., channel], (rows[k], columns[k]), order=1, mode="nearest"
            )
    return out


def _jpeg(x: Batch, s: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    quality = (80, 65, 58, 50, 40)[s]

    def again(image: Image.Image) -> Image.Image:
        coded = io.BytesIO()
        image.save(coded, "JPEG", quality=quality)
        return Image.open(coded)

    return _through_pillow(x, again)


def _pixelate(x: Batch, s: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    share = (0.95, 0.90, 0.85, 0.75, 0.65)[s]

    def again(image: Image.Image) -> Image.Image:
        small = tuple(max(1, round(share * side)) for side in image.size)
        box, nearest = Image.Resampling.BOX, Image.Resampling.NEAREST
        return image.resize((small[0], small[1]), box).resize(image.size, nearest)

    return _through_pillow(x, again)


_CORRUPTIONS: dict[str, Corruption] = {
    "gauss": _gauss,
    "shot": _shot,
    "impulse": _impulse,
    "speckle": _speckle,
    "blur": _blur,
    "defocus": _defocus,
    "motion": _motion,
    "zoom": _zoom,
    "glass": _glass,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturate": _saturate,
    "fog": _fog,
    "elastic": _elastic,
    "jpeg": _jpeg,
    "pixelate": _pixelate,
}


def _normal(x: Batch, rng: np.random.Generator) -> Batch:
    return rng.standard_normal(x.shape, dtype=np.float32)


def _scale(x: Batch) -> float:
    return min(x.shape[1:3]) / 32


def _smooth(x: Batch, sigma: float) -> Batch:
    out: Batch = ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest")
    return out


def _filtered(x: Batch, kernel: npt.NDArray[np.float64]) -> Batch:
    weights = (kernel / kernel.sum()).astype(np.float32)[None, :, :, None]
    out: Batch = ndimage.convolve(x, weights, mode="nearest")
    return out


def _magnified(x: Batch, zoom: float) -> Batch:
    offset = [0.0, *((side - 1) / 2 * (1 - 1 / zoom) for side in x.shape[1:3]), 0.0]
    steps = [1.0, 1 / zoom, 1 / zoom, 1.0]
    out: Batch = ndimage.affine_transform(x, steps, offset, order=1, mode="nearest")
    return out


def _through_pillow(x: Batch, change: Callable[[Image.Image], Image.Image]) -> npt.NDArray[Any]:
    stored = np.rint(255 * x).astype(np.uint8)
    if stored.shape[-1] == 1:
        stored = stored[..., 0]
    changed = [np.asarray(change(Image.fromarray(image))) for image in stored]
    return np.stack(changed).reshape(x.shape).astype(np.float32) / 255
