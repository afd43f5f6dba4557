"""The types of a data set: uint8 images, labels and their preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fggp_deploy.common.progress import Progress
from fggp_deploy.data.preprocessing import Images, Preprocessing
from fggp_deploy.data.sampling import sample
from fggp_deploy.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from fggp_deploy.data.splits import HeldOut

Labels = npt.NDArray[np.int64]
Index = slice | Sequence[int] | npt.NDArray[np.int64]

__all__ = [
    "Dataset", "Images", "Index", "Labels", "Part", "Preprocessing", "Progress", "Source", "Split",
    "Stored", "Stream",
]  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, C] and labels int64 [N] of one part of a data set, in memory."""

    images: Images
    labels: Labels

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(f"images must be uint8 [N, H, W, C], got {self.images.shape}")
        if self.labels.shape != (len(self.images),):
            raise DataError(f"{len(self.images)} images but labels of shape {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: Index) -> Images:
        """The images at `index`, uint8 [B, H, W, C]."""
        return self.images[index]

    def at(self, index: Index) -> Split:
        """The part that has only the images at `index`."""
        return Split(self.images[index], self.labels[index])

    def sample(self, n: int, *, seed: int = 0) -> Split:
        """The part that has only n of the images, chosen over all classes by `seed`."""
        return self.at(sample(self.labels, n, seed=seed))


class Source(Protocol):
    """The origin of a Stream's images; it is sent to worker processes, so it must be picklable."""

    def open(self, i: int) -> Image:
        """Image i, decoded, upright, in its own colors; raises DataError with its name."""
        ...

    def name(self, i: int) -> str:
        """What errors call image i."""
        ...


@runtime_checkable
class Stored(Protocol):
    """A Source that has each image as bytes, which can be compared without being decoded."""

    def content(self, i: int) -> bytes:
        """The bytes of the file of image i; raises DataError or MachineError with its name."""
        ...


@dataclass(frozen=True)
class Stream:
    """One part of a data set that is decoded and cropped every time it is read.

    Image `indices[i]` of `source` has the label `labels[i]`.
    """

    source: Source
    indices: npt.NDArray[np.int64]
    labels: Labels
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, i: int) -> Image:
        """Image i, decoded, upright, with the network's channels, in its own size."""
        from fggp_deploy.data.images import recolored

        return recolored(self.source.open(int(self.indices[i])), self.preprocessing.color)

    def name(self, i: int) -> str:
        """What errors call image i."""
        return self.source.name(int(self.indices[i]))

    def read(self, index: Index) -> Images:
        """The images at `index`, framed, uint8 [B, H, W, C]; raises DataError with a name."""
        from fggp_deploy.data.images import frame

        wanted = range(len(self))[index] if isinstance(index, slice) else index
        out = np.empty((len(wanted), *self.preprocessing.image_shape), np.uint8)
        for k, i in enumerate(wanted):
            out[k] = frame(self.open(i), self.preprocessing, name=self.name(i))
        return out

    def at(self, index: Index) -> Stream:
        """The part that has only the images at `index`."""
        return replace(self, indices=self.indices[index], labels=self.labels[index])

    def sample(self, n: int, *, seed: int = 0) -> Stream:
        """The part that has only n of the images, chosen over all classes by `seed`."""
        return self.at(sample(self.labels, n, seed=seed))


Part = Split | Stream


@dataclass(frozen=True)
class Dataset:
    """A named data set; model selection may look at `val`, never at `test`.

    `held_out`: what was held out of the training images if the data has no val or test
    part. `augment`: the preset that training uses, see training.augment.
    `repeatable`: False if the images differ each time they are read.
    """

    name: str
    classes: tuple[str, ...]
    train: Part
    val: Part
    test: Part
    preprocessing: Preprocessing
    flip: bool = True  # horizontal flips keep the label
    crop_padding: int = 4  # pixels of random shift in training
    augment: str = "basic"
    held_out: HeldOut | None = None
    repeatable: bool = True

    def __post_init__(self) -> None:
        for part in ("train", "val", "test"):
            labels = getattr(self, part).labels
            if len(labels) and (labels.min() < 0 or labels.max() >= len(self.classes)):
                raise DataError(
                    f"{self.name} {part}: labels span {labels.min()}..{labels.max()}, "
                    f"but there are {len(self.classes)} classes"
                )
