"""What a data set is to the rest of the package: uint8 images, labels, and how to prepare them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fggp_deploy.errors import ConfigError, DataError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Preprocessing:
    """From stored pixels to the network's input: x = (pixel / 255 − mean) / std, per channel.

    `height`, `width` in pixels; `mean` and `std` have one entry a channel. It travels inside every
    artifact, so a deployed file says what it wants to be fed.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (0 < self.height <= 16384 and 0 < self.width <= 16384):
            raise ConfigError(f"image size must be in 1..16384, got {self.height}x{self.width}")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ConfigError(
                f"mean and std need 1 or 3 entries each, got {len(self.mean)} and {len(self.std)}"
            )
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(s) and s > 0 for s in self.std):
            raise ConfigError(f"mean must be finite and std positive, got {self.mean}, {self.std}")

    @property
    def channels(self) -> int:
        """Number of input channels, 1 or 3."""
        return len(self.mean)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input."""
        return (self.channels, self.height, self.width)

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        """Prepare uint8 [N, H, W, C] as float32 [N, C, H, W]."""
        if images.dtype != np.uint8 or images.shape[1:] != (self.height, self.width, self.channels):
            raise DataError(
                f"images are {images.dtype} {images.shape[1:]}, the network wants uint8 "
                f"{(self.height, self.width, self.channels)}; give data of that size"
            )
        x = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        mean = np.asarray(self.mean, np.float32).reshape(1, -1, 1, 1)
        std = np.asarray(self.std, np.float32).reshape(1, -1, 1, 1)
        return np.ascontiguousarray((x - mean) / std)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Any) -> Preprocessing:
        """Read what `to_dict` wrote; raises ConfigError on anything else."""
        try:
            return cls(
                int(d["height"]),
                int(d["width"]),
                tuple(float(v) for v in d["mean"]),
                tuple(float(v) for v in d["std"]),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise ConfigError(f"preprocessing must have height, width, mean and std ({e})") from e


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, C] and labels int64 [N] of one part of a data set."""

    images: Images
    labels: Labels

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(f"images must be uint8 [N, H, W, C], got {self.images.shape}")
        if self.labels.shape != (len(self.images),):
            raise DataError(f"{len(self.images)} images but labels of shape {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A named data set; model selection may look at `val`, never at `test`."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    preprocessing: Preprocessing
    flip: bool = True  # horizontal flips keep the label
    crop_padding: int = 4  # pixels of random shift in training

    def __post_init__(self) -> None:
        for part in ("train", "val", "test"):
            labels = getattr(self, part).labels
            if len(labels) and (labels.min() < 0 or labels.max() >= len(self.classes)):
                raise DataError(
                    f"{self.name} {part}: labels span {labels.min()}..{labels.max()}, "
                    f"but there are {len(self.classes)} classes"
                )
