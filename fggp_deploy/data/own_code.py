"""`module.py:function`: a data set that the user's own Python makes.

The function takes no argument and returns a `Dataset`, or a mapping with `train` and `test`, and
if there are `val` and `classes` (names). Each part is either a pair (images, labels), uint8
[N, H, W] or [N, H, W, C] arrays or tensors with integers [N], or a torch-style data set of pairs
(Pillow image, or uint8 [H, W, C] array, or uint8 [C, H, W] tensor; integer).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from fggp_deploy.common.user_code import load_function, raised
from fggp_deploy.data.assembling import adapted, assemble, to_image
from fggp_deploy.data.reading import PARTS, Reading, by_looking
from fggp_deploy.data.splits import hold_out
from fggp_deploy.data.types import Dataset, Labels, Stream
from fggp_deploy.errors import DataError, FggpWarning

_READ_TWICE = 8  # training images that show whether reading repeats itself


class _Items:
    """(images, labels), or a data set of pairs; a Source."""

    def __init__(self, items: Any, name: str) -> None:
        self.title = name
        self.pair = (
            isinstance(items, tuple | list) and len(items) == 2 and hasattr(items[0], "shape")
        )
        if self.pair:
            items = tuple(_array(a) for a in items)
            if len(items[0]) != len(items[1]):
                raise DataError(f"{name} has {len(items[0])} images and {len(items[1])} labels")
        elif not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
            raise DataError(
                f"{name} must be (images, labels) or a data set of pairs with a length, "
                f"got {type(items).__name__}"
            )
        self.items = items

    def __len__(self) -> int:
        return len(self.items[0] if self.pair else self.items)

    def labels(self) -> Labels:
        """Integers [N]: `targets` if the data set has them, else read from every item."""
        if self.pair:
            found = self.items[1]
        elif hasattr(self.items, "targets"):
            found = self.items.targets
        else:
            found = [self._item(i)[1] for i in range(len(self))]
        y = np.asarray(found)
        if y.shape != (len(self),) or y.dtype.kind not in "iu":
            raise DataError(f"{self.title}: labels must be {len(self)} integers, got {y.dtype}")
        return y.astype(np.int64)

    def _item(self, i: int) -> Any:
        try:
            image, label = self.items[i]
        except Exception as e:  # the user's code may raise anything
            raise DataError(f"{self.name(i)}: {raised(e)}") from e
        return image, label

    def open(self, i: int) -> Image.Image:
        item = self.items[0][i] if self.pair else self._item(i)[0]
        if isinstance(item, Image.Image):
            return item
        pixels = _array(item)
        if hasattr(item, "numpy") and pixels.ndim == 3 and not self.pair:
            pixels = pixels.transpose(1, 2, 0)  # a tensor is [C, H, W]
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3):
            raise DataError(
                f"{self.name(i)} is {pixels.dtype} {pixels.shape}; an image must be a Pillow "
                "image or uint8 [H, W, 1 or 3], before any normalization"
            )
        return to_image(np.ascontiguousarray(pixels))

    def name(self, i: int) -> str:
        return f"image {i} of {self.title}"


def load(spec: str, name: str, reading: Reading) -> Dataset:
    """Call the function of `spec`, and make a data set from its result.

    Raises ConfigError without --trust-code, DataError for anything that the contract does not
    allow.
    """
    function = load_function(spec, trust_code=reading.trust_code)
    try:
        made = function()
    except Exception as e:  # the user's code may raise anything
        raise DataError(f"{spec} failed: {raised(e)}") from e
    if isinstance(made, Dataset):
        return adapted(made, reading)
    if not isinstance(made, Mapping) or not {"train", "test"} <= set(made):
        raise DataError(
            f"{spec} must return a fggp_deploy Dataset or a mapping with train and test, "
            f"got {type(made).__name__}"
        )
    sources = {p: _Items(made[p], f"{name} {p}") for p in PARTS if p in made}
    labels = {part: source.labels() for part, source in sources.items()}
    rows = {part: np.arange(len(source)) for part, source in sources.items()}
    held_out = None
    if "val" not in sources:
        names = [f"train/{i}" for i in range(len(sources["train"]))]
        cut, held_out = hold_out(names, labels["train"], seed=reading.split_seed, parts=["val"])
        rows |= cut
        sources["val"], labels["val"] = sources["train"], labels["train"]
    n_classes = 1 + max(int(y.max(initial=0)) for y in labels.values())
    classes = tuple(str(c) for c in made.get("classes", range(n_classes)))
    preprocessing = by_looking(sources["train"], labels["train"], reading)
    streams = {
        part: Stream(sources[part], rows[part], labels[part][rows[part]], preprocessing)
        for part in reading.parts
    }
    data = assemble(name, classes, streams, preprocessing, reading, held_out=held_out)
    return (
        data if reading.only_tests else replace(data, repeatable=_repeats(sources["train"], name))
    )


def _repeats(source: _Items, name: str) -> bool:
    """True if the source returns the same images again; otherwise warns."""
    if all(source.open(i) == source.open(i) for i in range(min(_READ_TWICE, len(source)))):
        return True
    warnings.warn(
        f"{name} returns a different image each time that the same index is read, so a resumed "
        "run would differ; leave random transforms out of it and use --augment",
        FggpWarning,
        stacklevel=3,
    )
    return False


def _array(values: Any) -> Any:
    return values.numpy() if hasattr(values, "numpy") else np.asarray(values)
