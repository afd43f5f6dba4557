"""Splitting val and test from the training images: stratified, by seed, and recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fggp_deploy.common.files import write_atomic
from fggp_deploy.errors import DataError

SPLIT = "split.json"  # in a run's folder
FRACTION = 0.1  # of each class that val gets, and test
LEAST = 5  # images of a class; below that all are for training
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HeldOut:
    """The names of the images that were held out for `val` and `test`, and the seed of the choice.

    `test` is empty if the data set has its own test part.
    """

    seed: int
    val: tuple[str, ...]
    test: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_atomic(path, json.dumps({"version": 1, **asdict(self)}, indent=0) + "\n")

    @classmethod
    def open(cls, path: Path) -> HeldOut:
        """Read what `save` wrote; raises DataError on anything else."""
        try:
            d = json.loads(path.read_text(encoding="utf-8"))
            if d["version"] != 1:
                raise DataError(f"{path} has a newer format; upgrade fggp-deploy")
            parts = [d["val"], d["test"]]
            if not all(isinstance(n, str) for part in parts for n in part):
                raise TypeError("names must be strings")
            return cls(int(d["seed"]), tuple(parts[0]), tuple(parts[1]))
        except OSError as e:
            raise DataError(f"{path} cannot be read ({e.strerror or e})") from e
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise DataError(
                f"{path} is damaged ({e}); delete it to split the data again by seed"
            ) from e

    def save_beside(self, folder: Path) -> None:
        """Write into a run's folder."""
        self.save(folder / SPLIT)


def hold_out(
    names: Sequence[str],
    labels: npt.NDArray[np.int64],
    *,
    seed: int,
    parts: Sequence[str],
    known: HeldOut | None = None,
) -> tuple[Mapping[str, Rows], HeldOut]:
    """Rows of "train" and of each of `parts` ("val", "test"), in ascending order, and the record.

    Of each class of at least five images, a tenth (rounded, at least one) goes to each part: those
    whose SHA-256 of seed and name come first, so the choice depends on neither order nor machine.
    `known` is a record to follow instead; images that it does not name are for training. Raises
    DataError if a part would be empty, or if no image that `known` names exists.
    """
    if known is None:
        chosen = _choose(names, labels, seed=seed, parts=parts)
    else:
        row_of = {name: i for i, name in enumerate(names)}
        recorded = {"val": known.val, "test": known.test}
        chosen = {
            part: np.array(sorted(row_of[n] for n in recorded[part] if n in row_of), np.int64)
            for part in parts
        }
    for part, rows in chosen.items():
        if not len(rows):
            why = f"none of {SPLIT}'s are there" if known else f"no class has {LEAST} images"
            raise DataError(f"no image is left for the {part} part ({why}); add a {part} folder")
    held = np.concatenate([np.empty(0, np.int64), *chosen.values()])
    train = np.setdiff1d(np.arange(len(names)), held)
    record = HeldOut(
        seed if known is None else known.seed,
        *(tuple(names[i] for i in chosen.get(part, ())) for part in ("val", "test")),
    )
    return {"train": train, **chosen}, record


def _choose(
    names: Sequence[str], labels: npt.NDArray[np.int64], *, seed: int, parts: Sequence[str]
) -> dict[str, Rows]:
    rank = [
        hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest() for name in names
    ]
    rows: dict[str, list[int]] = {part: [] for part in parts}
    order = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[order])) + 1
    for group in np.split(order, bounds):
        if len(group) < LEAST:
            continue
        first = sorted(group.tolist(), key=lambda i: rank[i])
        n = max(1, round(FRACTION * len(group)))
        for k, part in enumerate(parts):
            rows[part] += first[k * n : (k + 1) * n]
    return {part: np.array(sorted(r), np.int64) for part, r in rows.items()}
