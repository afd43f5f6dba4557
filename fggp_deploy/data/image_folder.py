"""A folder of images, with one subfolder per class (torchvision's ImageFolder layout).

Folders train, val and test (or training, valid, validation, testing) are the parts. Without a test
folder, val is the test part; missing parts are split from the training images, see splits.
Everything below a class folder belongs to that class. Hidden files and folders, and files without
the suffix of an image, are ignored.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fggp_deploy.data.assembling import assemble
from fggp_deploy.data.image_files import ImageFiles, check
from fggp_deploy.data.image_tree import Tree, find_parts, scan
from fggp_deploy.data.reading import Reading, class_index, for_any_images, n_workers, safe_name
from fggp_deploy.data.splits import HeldOut, Rows, hold_out
from fggp_deploy.data.types import Dataset, Stream
from fggp_deploy.errors import DataError, FggpWarning


@dataclass(frozen=True)
class _Part:
    """The images of `tree` at `rows`."""

    tree: Tree
    rows: Rows

    @classmethod
    def whole(cls, tree: Tree) -> _Part:
        return cls(tree, np.arange(len(tree.names)))


def load(root: Path, name: str, reading: Reading) -> Dataset:
    """The images below `root`, checked, in the network's size.

    Raises DataError and MachineError, which name the file, for everything that can be wrong.
    """
    parts, held_out = _parts(root, reading, name)
    found = {c for part in parts.values() for c in part.tree.classes}
    classes = class_index(sorted(found), reading, where=str(root))
    index = {safe_name(c): i for i, c in enumerate(classes)}
    files, rows, headers = {}, {}, {}
    for key, part in parts.items():
        files[key] = ImageFiles(part.tree.root, [part.tree.names[i] for i in part.rows])
        ok, headers[key] = check(
            files[key],
            skip=reading.skip_unreadable,
            workers=n_workers(reading.workers),
            progress=reading.progress,
        )
        rows[key] = np.flatnonzero(ok)
    seen = headers.get("train") or next(iter(headers.values()))
    preprocessing = for_any_images(
        reading,
        np.array([(h.height, h.width) for h in seen], np.int64),
        all_gray=all(h.gray for h in seen),
    )
    streams = {}
    for key, part in parts.items():
        owners = [part.tree.owners[i] for i in part.rows[rows[key]]]
        labels = np.array([index[safe_name(owner)] for owner in owners], np.int64)
        streams[key] = Stream(files[key], rows[key], labels, preprocessing)
    return assemble(name, classes, streams, preprocessing, reading, held_out=held_out)


def _parts(root: Path, reading: Reading, name: str) -> tuple[dict[str, _Part], HeldOut | None]:
    """The parts that `reading` needs, and what was held out of the training images."""
    there = find_parts(root)
    if "test" not in there and "val" in there:
        there["test"] = there.pop("val")
    if reading.only_tests:
        if "test" in there:
            return {"test": _Part.whole(scan(there["test"]))}, None
        if not there and name != reading.trained_on:
            tree = scan(root)
            warnings.warn(
                f"{root} has no test folder and the network was not trained on {name}: all of its "
                f"{len(tree.names):,} images are used for testing",
                FggpWarning,
                stacklevel=2,
            )
            return {"test": _Part.whole(tree)}, None
    elif there and "train" not in there:
        raise DataError(f"{root} has no train folder next to {there['test'].name}; add one")
    trees = {part: scan(folder) for part, folder in there.items()}
    if "train" not in trees:
        trees["train"] = scan(root)
    train = trees["train"]
    for part, tree in trees.items():
        if extra := sorted(set(tree.classes) - set(train.classes)):
            raise DataError(
                f"{tree.root} has the class {extra[0]!r}, which {train.root} does not have, so "
                f"its {part} images cannot be learned; add the class there, or remove it here"
            )
        if missing := sorted(set(train.classes) - set(tree.classes)):
            warnings.warn(
                f"{tree.root} has no images of "
                f"{', '.join(map(repr, missing[:3]))}{' …' if len(missing) > 3 else ''}: accuracy "
                f"there does not include {'that class' if len(missing) == 1 else 'those classes'}",
                FggpWarning,
                stacklevel=2,
            )
    labels = np.unique(train.owners, return_inverse=True)[1]
    cut, held_out = hold_out(
        train.names,
        labels,
        seed=reading.split_seed,
        parts=[part for part in ("val", "test") if part not in trees],
        known=reading.held_out if name == reading.trained_on else None,
    )
    parts = {part: _Part.whole(tree) for part, tree in trees.items()}
    parts |= {part: _Part(train, rows) for part, rows in cut.items()}
    return {part: parts[part] for part in reading.parts}, held_out
