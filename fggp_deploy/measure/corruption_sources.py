"""Where the corrupted test images come from: generated here, or published with a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fggp_deploy.data.types import Images, Labels, Split
from fggp_deploy.errors import DataError
from fggp_deploy.measure import corruptions, evaluate

Rows = npt.NDArray[np.int64]

# The corruptions of the benchmark, over which papers average. The published folders also hold four
# that were meant for validation.
BENCHMARK = (
    "brightness", "contrast", "defocus_blur", "elastic_transform", "fog", "frost",
    "gaussian_noise", "glass_blur", "impulse_noise", "jpeg_compression", "motion_blur", "pixelate",
    "shot_noise", "snow", "zoom_blur",
)  # fmt: skip
_VALIDATION = ("gaussian_blur", "saturate", "spatter", "speckle_noise")


class Corruptions(Protocol):
    """Corrupted forms of the test images."""

    @property
    def name(self) -> str:
        """Where they come from, for reports."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of corruption that are measured."""
        ...

    @property
    def left_out(self) -> tuple[str, ...]:
        """Known kinds that are not measured."""
        ...

    def corrupted(self, images: Split, rows: Rows, kind: str, severity: int) -> Images:
        """`images`, rows `rows` of the test images, in their corrupted form: uint8 [N, H, W, C].

        `severity` is 1 to 5. The same arguments give the same images.
        """
        ...


@dataclass(frozen=True)
class GeneratedCorruptions:
    """Our own corruptions (measure.corruptions) of images with `channels` channels."""

    channels: int
    seed: int = 0
    name = "generated"
    left_out = corruptions.LEFT_OUT

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that such images can have."""
        return corruptions.kinds(self.channels)

    def corrupted(self, images: Split, rows: Rows, kind: str, severity: int) -> Images:
        """See Corruptions; `rows` are not needed, because `images` are corrupted here."""
        rng = np.random.default_rng([self.seed, self.kinds.index(kind), severity])
        step = evaluate.MAX_BATCH
        parts = [
            corruptions.corrupt(images.images[i : i + step], kind, severity, rng)
            for i in range(0, len(images), step)
        ]
        return np.concatenate(parts)


@dataclass(frozen=True)
class PublishedCorruptions:
    """CIFAR-10-C, CIFAR-100-C or a folder like them: see `open`.

    Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions
    and perturbations", 2019. The 15 kinds of the benchmark are measured.
    """

    folder: Path
    n_images: int
    kinds = BENCHMARK
    left_out = _VALIDATION

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    @classmethod
    def open(
        cls, folder: Path, labels: Labels, image_shape: tuple[int, ...]
    ) -> PublishedCorruptions:
        """Open a folder and check it against all N test images: their labels [N], shape [H, W, C].

        It holds a file KIND.npy per corruption, uint8 [5·N, H, W, C]: all test images in their
        order, from severity 1 to 5, and labels.npy, [5·N]. Raises DataError if a file is missing or
        damaged, or belongs to other images.
        """
        found = cls(folder.resolve(), len(labels))
        theirs = _array(folder / "labels.npy", (5 * len(labels),))
        if not np.array_equal(theirs, np.tile(labels, 5)):
            raise DataError(
                f"{folder / 'labels.npy'} has other labels than the test images; the corrupted "
                "images must be those of the data set of --data, in its order"
            )
        for kind in cls.kinds:
            found._images(kind, image_shape)
        return found

    def corrupted(self, images: Split, rows: Rows, kind: str, severity: int) -> Images:
        """See Corruptions; read from the file."""
        every = self._images(kind, images.images.shape[1:])
        return np.asarray(every[(severity - 1) * self.n_images + rows])

    def _images(self, kind: str, image_shape: tuple[int, ...]) -> Images:
        path = self.folder / f"{kind}.npy"
        array = _array(path, (5 * self.n_images, *image_shape))
        if array.dtype != np.uint8:
            raise DataError(f"{path} has values of type {array.dtype}, and images have uint8")
        return array.view(np.uint8)


def _array(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    """A file's array, mapped into memory instead of read."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as e:
        raise DataError(f"{path} is missing; --corruptions needs a folder like CIFAR-10-C") from e
    except (OSError, ValueError, EOFError) as e:
        raise DataError(f"{path} is damaged or not a NumPy file ({e}); download it again") from e
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise DataError(
            f"{path} has the shape {getattr(array, 'shape', None)}, and these test images need "
            f"{shape}"
        )
    return array
