"""Preprocessing: from an image to the network's input; recorded in every artifact."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ConfigError, DataError

Images = npt.NDArray[np.uint8]
MAX_SIDE = 16384
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    """Resize and crop an image, then x = (pixel / 255 − mean) / std, per channel.

    `height`, `width` in pixels; `mean` and `std` have one entry per channel: 1 for gray, 3 for red,
    green and blue. `resize`: an image of any size is first resized (antialiased, `interpolation`)
    so that its shorter side has this many pixels, then height × width pixels are cut from its
    center. If height ≠ width, the image is resized to cover both, times resize / min(height,
    width). None: images must already be height × width. Every artifact records it, so a deployed
    file says which input it needs.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not (0 < self.height <= MAX_SIDE and 0 < self.width <= MAX_SIDE):
            raise ConfigError(
                f"image size must be in 1..{MAX_SIDE}, got {self.height}x{self.width}"
            )
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ConfigError(
                f"mean and std need 1 or 3 entries each, got {len(self.mean)} and {len(self.std)}"
            )
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(s) and s > 0 for s in self.std):
            raise ConfigError(f"mean must be finite and std positive, got {self.mean}, {self.std}")
        least = min(self.height, self.width)
        if self.resize is not None and not least <= self.resize <= MAX_SIDE:
            raise ConfigError(
                f"resize must be in {least}..{MAX_SIDE} for images of "
                f"{self.height}x{self.width}, got {self.resize}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}, "
                f"got {self.interpolation!r}"
            )

    @property
    def channels(self) -> int:
        """Number of input channels, 1 or 3."""
        return len(self.mean)

    @property
    def color(self) -> str:
        """The order of the channels: "L" for gray, "RGB"."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input."""
        return (self.channels, self.height, self.width)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one framed image."""
        return (self.height, self.width, self.channels)

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        """Prepare framed uint8 [N, H, W, C] as float32 [N, C, H, W]."""
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise DataError(
                f"images are {images.dtype} {images.shape[1:]}, but the network takes uint8 "
                f"{self.image_shape}; give data of that size"
            )
        x = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        mean = np.asarray(self.mean, np.float32).reshape(1, -1, 1, 1)
        std = np.asarray(self.std, np.float32).reshape(1, -1, 1, 1)
        return np.ascontiguousarray((x - mean) / std)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "color": self.color}

    @classmethod
    def from_dict(cls, d: Any) -> Preprocessing:
        """Read what `to_dict` wrote; raises ConfigError on anything else."""
        try:
            resize = d.get("resize")
            read = cls(
                int(d["height"]),
                int(d["width"]),
                tuple(float(v) for v in d["mean"]),
                tuple(float(v) for v in d["std"]),
                None if resize is None else int(resize),
                str(d.get("interpolation", "bilinear")),
            )
            color = d.get("color", read.color)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as e:
            raise ConfigError(f"preprocessing must have height, width, mean and std ({e})") from e
        if color != read.color:
            raise ConfigError(
                f"preprocessing has {read.channels} channels, so its color must be "
                f"{read.color!r}, got {color!r:.40}"
            )
        return read
