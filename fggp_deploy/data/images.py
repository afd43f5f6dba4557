"""Reading one image with Pillow: open, check, turn upright, color, frame. Needs no torch.

Every step is that of torchvision on Pillow images (`ImageFolder`, `v2.Resize(antialias=True)`,
`v2.CenterCrop`), so both give the same pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fggp_deploy.data.preprocessing import Images, Preprocessing
from fggp_deploy.errors import DataError, FggpError, MachineError

# only these decoders ever see a file: some of Pillow's others start programs
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)
MAX_PIXELS = 100_000_000  # a larger image is a mistake or a decompression bomb
_TAIL = 1024  # bytes at the end of a file in which its end mark must be
_END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_GRAY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I", "F")


@dataclass(frozen=True)
class Header:
    """What an image's file says before it is decoded: pixels, and whether it has only grays."""

    width: int
    height: int
    gray: bool


def check(path: Path, *, fully: bool = False) -> Header:
    """Read an image's header; also decode it with `fully`, or if its end seems to be missing.

    Raises DataError if it is not an image, MachineError without permission to read.
    """
    with _reading(str(path)), path.open("rb") as f:
        with Image.open(f, formats=FORMATS) as image:
            _limit(image, str(path))
            header = Header(*image.size, image.mode in _GRAY_MODES)
            mark = _END_MARKS.get(image.format or "")
            f.seek(0, 2)
            f.seek(max(0, f.tell() - _TAIL))
            suspect = mark is not None and mark not in f.read()
        if fully or suspect:
            upright(path)
    return header


def upright(path: Path) -> Image.Image:
    """Decode an image and turn it as its EXIF orientation says. Raises as `check`."""
    with _reading(str(path)), Image.open(path, formats=FORMATS) as image:
        _limit(image, str(path))
        return ImageOps.exif_transpose(image)


def file_bytes(path: Path) -> bytes:
    """The bytes of an image's file. Raises as `check`."""
    with _reading(str(path)):
        return path.read_bytes()


def recolored(image: Image.Image, color: str) -> Image.Image:
    """The image as "L" (gray by ITU-R 601 luma) or "RGB" (gray repeated); transparency is dropped.

    16-bit grays keep their upper byte.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "I":  # how Pillow opens some 16-bit grays
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == color else image.convert(color)


def frame(image: Image.Image, preprocessing: Preprocessing, *, name: str) -> Images:
    """Bring an "L" or "RGB" image to the network's size: uint8 [H, W, C].

    Raises DataError, with `name`, for an image of another size if resizing is not allowed.
    """
    height, width = preprocessing.height, preprocessing.width
    if preprocessing.resize is not None:
        image = shrink(image, preprocessing, name=name)
        left = round((image.width - width) / 2)
        top = round((image.height - height) / 2)
        if image.size != (width, height):
            image = image.crop((left, top, left + width, top + height))
    elif image.size != (width, height):
        raise DataError(
            f"{name} is {image.width}x{image.height}, but the network takes {width}x{height}; "
            "give images of that size, or --image-size"
        )
    return np.asarray(image, np.uint8).reshape(height, width, preprocessing.channels)


def shrink(image: Image.Image, preprocessing: Preprocessing, *, name: str) -> Image.Image:
    """Bring the shorter side to `preprocessing.resize`, antialiased; the rest in proportion.

    The longer side becomes int(resize · long / short), as torchvision has it.
    """
    height, width = preprocessing.height, preprocessing.width
    assert preprocessing.resize is not None  # the caller has checked it
    scale = preprocessing.resize / min(height, width)
    height, width = round(height * scale), round(width * scale)
    w, h = image.size
    if w * height <= h * width:
        size = (width, max(int(width * h / w), height))
    else:
        size = (max(int(height * w / h), width), height)
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(f"{name} is {w}x{h}, which is too long and thin to be resized; remove it")
    if size == (w, h):
        return image
    return image.resize(size, _RESAMPLING[preprocessing.interpolation])


def _limit(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{name} claims {image.width}x{image.height} pixels, which is more than "
            f"{MAX_PIXELS:,}; it may be a decompression bomb, so remove it or scale it down"
        )


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a bad file into one line."""
    try:
        yield
    except FggpError:
        raise
    except PermissionError as e:
        raise MachineError(f"{name} may not be read; change its permissions") from e
    except Image.DecompressionBombError as e:
        raise DataError(
            f"{name} claims to have more than {MAX_PIXELS:,} pixels; it may be a decompression "
            "bomb, so remove it or scale it down"
        ) from e
    except Image.UnidentifiedImageError as e:
        raise DataError(
            f"{name} is not a {', '.join(FORMATS)} image; remove it, or give --skip-unreadable"
        ) from e
    except Exception as e:  # decoders fed with garbage raise almost anything
        why = str(e) or type(e).__name__
        raise DataError(
            f"{name} cannot be decoded ({why}); remove it, or give --skip-unreadable"
        ) from e
