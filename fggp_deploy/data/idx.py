"""The IDX files of MNIST and its relatives, plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fggp_deploy.data.types import Labels
from fggp_deploy.errors import DataError

_MOST_BYTES = 70_000 * 28 * 28
Bytes = npt.NDArray[np.uint8]


def find(folder: Path, part: str, *, below: str) -> Path | None:
    """The folder with `{part}-images-idx3-ubyte[.gz]`: `folder`, or `below` it as torchvision."""
    name = f"{part}-images-idx3-ubyte"
    for at in (folder, folder / below):
        if (at / f"{name}.gz").exists() or (at / name).exists():
            return at
    return None


def read(folder: Path, part: str, *, name: str) -> tuple[Bytes, Labels]:
    """Read `{part}-images-idx3-ubyte[.gz]` and its labels: uint8 [N, 28, 28, 1], int64 [N].

    Raises DataError if one is missing or damaged; `name` is what the four files are called.
    """
    images = _idx(folder / f"{part}-images-idx3-ubyte", (28, 28), name)
    labels = _idx(folder / f"{part}-labels-idx1-ubyte", (), name)
    if len(images) != len(labels):
        raise DataError(
            f"{folder}: {len(images)} images but {len(labels)} labels; download it again"
        )
    return images[..., None], labels.astype(np.int64)


def _idx(path: Path, item_shape: tuple[int, ...], name: str) -> Bytes:
    """Read an IDX file of bytes; its header is checked against what is expected and there."""
    packed = path.with_name(f"{path.name}.gz")
    path = packed if packed.exists() else path
    try:
        with gzip.open(path) if path == packed else path.open("rb") as f:
            raw = f.read(_MOST_BYTES + 17)
    except FileNotFoundError as e:
        raise DataError(
            f"{packed} is missing; --data-dir must hold the four official {name} .gz files"
        ) from e
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"{path} is damaged ({e}); download it again") from e
    n_dims = 1 + len(item_shape)
    head = struct.Struct(f">HBB{n_dims}I")
    if len(raw) < head.size:
        raise DataError(f"{path} is damaged (truncated header); download it again")
    zero, kind, dims, *shape = head.unpack_from(raw)
    want = shape[0] * int(np.prod(item_shape, dtype=np.int64))
    if (zero, kind, dims) != (0, 8, n_dims) or tuple(shape[1:]) != item_shape:
        raise DataError(f"{path} is not an IDX file of {item_shape} bytes; download it again")
    if len(raw) - head.size != want:
        raise DataError(f"{path} is damaged ({len(raw) - head.size} of {want} bytes)")
    return np.frombuffer(raw, np.uint8, offset=head.size).reshape(shape)
