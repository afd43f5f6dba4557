"""`hf:NAME_OR_PATH`: image classification sets through Hugging Face's `datasets`."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fggp_deploy.data.assembling import assemble
from fggp_deploy.data.reading import Reading, by_looking, class_index, safe_name
from fggp_deploy.data.splits import hold_out
from fggp_deploy.data.types import Dataset, Stream
from fggp_deploy.errors import DataError, MachineError, shortened

_PARTS = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
_LABELS = ("label", "labels", "fine_label", "class", "target")


class _Table:
    """One split of a `datasets` set; a Source."""

    def __init__(self, table: Any, column: str, name: str) -> None:
        self.table, self.column, self.title = table, column, name

    def open(self, i: int) -> Image.Image:
        try:
            image = self.table[i][self.column]
            return ImageOps.exif_transpose(image)
        except Exception as e:  # decoders fed with garbage raise almost anything
            raise DataError(
                f"{self.name(i)} cannot be decoded ({shortened(e)}); remove it from the data set"
            ) from e

    @cached_property
    def _files(self) -> Any:
        """The table with its images as they are stored."""
        import datasets

        return self.table.cast_column(self.column, datasets.Image(decode=False))

    def content(self, i: int) -> bytes:
        try:
            image = self._files[i][self.column]
            return bytes(image["bytes"] or Path(image["path"]).read_bytes())
        except Exception as e:  # the hub's files may be gone
            raise DataError(f"{self.name(i)} cannot be read ({shortened(e)})") from e

    def name(self, i: int) -> str:
        return f"image {i} of {self.title}"


def load(where: str, name: str, reading: Reading) -> Dataset:
    """The set at `where`: a folder that `save_to_disk` or `load_dataset` knows, or a hub's name.

    Its image column and its class label column are found by type; without a test split,
    validation is the test part, and what is missing is cut out of the training images. Raises
    MachineError without `datasets`, DataError for a set that is not there or has no such columns.
    """
    tables = _tables(where)
    some = next(iter(tables.values()))
    image, label = _columns(some.features, where)
    found = list(some.features[label].names)
    classes = class_index(found, reading, where=where)
    index = {safe_name(c): i for i, c in enumerate(classes)}
    to_index = np.array([index[safe_name(c)] for c in found], np.int64)
    there = {part: tables[key] for part, keys in _PARTS.items() for key in keys if key in tables}
    if "test" not in there and "val" in there:
        there["test"] = there.pop("val")
    if "train" not in there and not (reading.only_tests and "test" in there):
        raise DataError(f"{where} has the splits {', '.join(tables)} but no train split")
    labels = {part: np.asarray(table[label][:], np.int64) for part, table in there.items()}
    for part, y in labels.items():
        if len(y) and not (y.min() >= 0 and y.max() < len(found)):
            raise DataError(f"{where} {part}: some images have no label; remove these images")
    missing = [p for p in ("val", "test") if p not in there]
    rows = {part: np.arange(len(table)) for part, table in there.items()}
    held_out = None
    if "train" in there:
        names = [f"train/{i}" for i in range(len(there["train"]))]
        known = reading.held_out if name == reading.trained_on else None
        cut, held_out = hold_out(
            names, labels["train"], seed=reading.split_seed, parts=missing, known=known
        )
        rows |= cut
    sources = {part: _Table(there.get(part, there.get("train")), image, where) for part in rows}
    looked_at = "train" if "train" in there else "test"
    preprocessing = by_looking(sources[looked_at], labels[looked_at], reading)
    streams = {
        part: Stream(
            sources[part],
            rows[part],
            to_index[labels[part if part in there else "train"][rows[part]]],
            preprocessing,
        )
        for part in reading.parts
    }
    return assemble(name, classes, streams, preprocessing, reading, held_out=held_out)


def _tables(where: str) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as e:
        raise MachineError(
            "--data hf:... needs the datasets package; pip install 'fggp-deploy[hf]'"
        ) from e
    for noisy in ("huggingface_hub", "datasets"):  # their retries are part of one failure
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        on_disk = any((Path(where) / f).is_file() for f in ("dataset_dict.json", "state.json"))
        found = datasets.load_from_disk(where) if on_disk else datasets.load_dataset(where)
    except Exception as e:  # datasets, its hub client and pyarrow share no base
        why = shortened(e, 160) or type(e).__name__
        raise DataError(
            f"datasets cannot load {where} ({why}); check the name, or give a folder that "
            f"save_to_disk wrote"
        ) from e
    return dict(found) if isinstance(found, dict) else {"train": found}


def _columns(features: Any, where: str) -> tuple[str, str]:
    """Names of the image and of the class label column."""
    import datasets

    images = [n for n, f in features.items() if isinstance(f, datasets.Image)]
    labels = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)]
    if len(labels) > 1:
        labels = [n for n in _LABELS if n in labels][:1] or labels
    if len(images) != 1 or len(labels) != 1:
        raise DataError(
            f"{where} must have one Image column and one ClassLabel column, it has "
            f"{', '.join(f'{n} ({type(f).__name__})' for n, f in features.items())}; "
            f"cast them with cast_column"
        )
    return images[0], labels[0]
