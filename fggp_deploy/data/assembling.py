"""Assembling a data set from its streams, decoded once if memory allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from fggp_deploy.data.decoding import bytes_of, in_memory
from fggp_deploy.data.images import frame, recolored
from fggp_deploy.data.preprocessing import Images, Preprocessing
from fggp_deploy.data.reading import IN_MEMORY_BYTES, PARTS, Reading, n_workers, with_options
from fggp_deploy.data.splits import HeldOut
from fggp_deploy.data.types import Dataset, Part, Split, Stream
from fggp_deploy.errors import ConfigError, DataError


def assemble(
    name: str,
    classes: tuple[str, ...],
    streams: Mapping[str, Stream],
    preprocessing: Preprocessing,
    reading: Reading,
    *,
    held_out: HeldOut | None = None,
) -> Dataset:
    """A data set of streams, or of their decoded images; parts that are not needed are empty."""
    once = bytes_of(list(streams.values())) <= IN_MEMORY_BYTES
    if reading.stream is not None:
        once = not reading.stream
    parts: dict[str, Part] = dict.fromkeys(PARTS, _nothing(preprocessing))
    for part, stream in streams.items():
        parts[part] = stream
        if once:
            parts[part] = in_memory(
                stream,
                workers=n_workers(reading.workers),
                progress=reading.progress,
                what=f"decoding {part} images",
            )
    return Dataset(
        name,
        classes,
        parts["train"],
        parts["val"],
        parts["test"],
        preprocessing=preprocessing,
        crop_padding=max(1, min(preprocessing.height, preprocessing.width) // 8),
        held_out=held_out,
    )


def adapted(data: Dataset, reading: Reading) -> Dataset:
    """A registered data set with the preprocessing of the network or the options.

    If that preprocessing resizes, the images are converted to its size and color; otherwise they
    stay unchanged, and mean and std must have the same channels. Raises ConfigError.
    """
    own = data.preprocessing
    wanted = with_options(reading.preprocessing or own, reading)
    parts = {part: getattr(data, part) for part in PARTS}
    if wanted.resize is None:
        if wanted.channels != own.channels and reading.mean is not None:
            raise ConfigError(
                f"--mean has {wanted.channels} entries but the images have {own.channels} "
                f"channels; --image-size {own.height} would convert them"
            )
        if wanted.image_shape != own.image_shape:
            raise DataError(
                f"{data.name} has images of (height, width, channels) {own.image_shape}, but the "
                f"network takes {wanted.image_shape}; give the data that it was trained on"
            )
    elif (wanted.resize, wanted.image_shape) != (min(own.height, own.width), own.image_shape):
        parts = {part: _framed(split, wanted) for part, split in parts.items()}
    return replace(data, preprocessing=wanted, **parts)


def _framed(split: Split, preprocessing: Preprocessing) -> Split:
    out = np.empty((len(split), *preprocessing.image_shape), np.uint8)
    for i, pixels in enumerate(split.images):
        out[i] = frame(
            recolored(to_image(pixels), preprocessing.color), preprocessing, name=f"image {i}"
        )
    return Split(out, split.labels)


def to_image(pixels: Images) -> Image.Image:
    """A Pillow image of uint8 [H, W, 1 or 3]."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _nothing(preprocessing: Preprocessing) -> Split:
    return Split(np.empty((0, *preprocessing.image_shape), np.uint8), np.empty(0, np.int64))
