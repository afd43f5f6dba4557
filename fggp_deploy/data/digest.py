"""Digests of a data set's description and images, which show whether it has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np

from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.data.sampling import sample
from fggp_deploy.data.types import Dataset, Part, Split, Stored, Stream

SAMPLE = 4096  # images of a streamed part that are compared
_CHUNK = 256  # images that are hashed at once


def description_digest(data: Dataset) -> str:
    """Hex SHA-256 over name, classes, preprocessing, augmentation and the labels that train."""
    about = [
        data.name, data.classes, data.preprocessing.to_dict(), data.augment, data.flip,
        data.crop_padding,
    ]  # fmt: skip
    h = hashlib.sha256(json.dumps(about).encode())
    for part in (data.train, data.val):
        h.update(part.labels.tobytes())
    return h.hexdigest()


def images_digest(data: Dataset, *, progress: Progress = silent) -> str | None:
    """Hex SHA-256 over the images and test labels; None if the images differ at each reading.

    A part in memory is hashed whole, by its pixels. Of a streamed part, SAMPLE images over all
    classes are hashed, by the bytes of their files if it has any, which needs no decoding.
    """
    if not data.repeatable:
        return None
    h = hashlib.sha256(data.test.labels.tobytes())
    for part in (data.train, data.val, data.test):
        h.update(str(len(part)).encode())
        for content in _contents(part, progress):
            h.update(hashlib.sha256(content).digest())
    return h.hexdigest()


def _contents(part: Part, progress: Progress) -> Iterator[bytes]:
    if isinstance(part, Split):
        for i in range(0, len(part), _CHUNK):
            yield part.images[i : i + _CHUNK].tobytes()
    else:
        chosen = sample(part.labels, SAMPLE)
        for done, i in enumerate(chosen):
            progress("hashing images", done, len(chosen))
            yield _content(part, int(i))


def _content(stream: Stream, i: int) -> bytes:
    source, k = stream.source, int(stream.indices[i])
    if isinstance(source, Stored):
        return source.content(k)
    image = source.open(k)
    return f"{image.mode} {image.size}".encode() + np.asarray(image).tobytes()
