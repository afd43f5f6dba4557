"""Options for reading a data set of any kind, and the preprocessing that follows from them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fggp_deploy.common.cores import usable_cores
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.data.preprocessing import Preprocessing
from fggp_deploy.data.sampling import Rows, sample
from fggp_deploy.distributed import environment
from fggp_deploy.errors import ConfigError, DataError, FggpWarning

if TYPE_CHECKING:
    from fggp_deploy.data.splits import HeldOut
    from fggp_deploy.data.types import Source

PARTS = ("train", "val", "test")
IN_MEMORY_BYTES = 1 << 30  # framed images up to this size are kept and not decoded again
LOOKED_AT = 64  # training images that determine size and color
DEFAULT_SIZE = 64  # pixels, of images of many sizes
LARGEST_AS_IT_IS = 96  # pixels, of images that are all of one size
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRAY_MEAN, GRAY_STD = (0.5,), (0.25,)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the user and the network require of a data set.

    `preprocessing`, `classes`: those of the checkpoint or deployed file; the options `image_size`
    (pixels of a side), `resize` (the shorter side before the crop), `mean` and `std` override the
    preprocessing. `trained_on`: the name of the data that the network has seen.
    `parts`: those that are needed. `stream`: decode images every time (True), once (False), or
    once if they fit into 1 GiB (None). `workers`: processes that decode, None for the
    machine's choice. `skip_unreadable`: leave out images that cannot be decoded, and say how many.
    `trust_code`: run the user's own Python file. `split_seed`, `held_out`: see splits.hold_out.
    """

    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    trained_on: str | None = None
    parts: tuple[str, ...] = PARTS
    image_size: int | None = None
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    stream: bool | None = None
    workers: int | None = None
    skip_unreadable: bool = False
    trust_code: bool = False
    split_seed: int = 0
    held_out: HeldOut | None = None
    progress: Progress = silent

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ConfigError("--mean and --std must be given together")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--workers must be at least 0, got {self.workers}")
        if self.resize is not None and self.image_size is None and self.preprocessing is None:
            raise ConfigError("--resize needs --image-size")

    @property
    def only_tests(self) -> bool:
        """True if nothing is trained: the data set only serves to measure a finished file."""
        return self.parts == ("test",)


def n_workers(asked: int | None) -> int:
    """Processes that decode: as asked, or one less than the cores that we may use, at most 8.

    The processes of a run on several devices share the cores of their machine.
    """
    if asked is not None:
        return asked
    return max(1, min(8, usable_cores() // environment.local_world() - 1))


def with_options(base: Preprocessing, reading: Reading) -> Preprocessing:
    """`base` with the options that the user gave."""
    if reading.mean is not None and reading.std is not None:
        if max(*reading.mean, *reading.std) > 1:
            raise ConfigError(
                "--mean and --std are for pixels in 0 … 1; divide values for pixels in 0 … 255 "
                "by 255"
            )
        base = replace(base, mean=reading.mean, std=reading.std)
    if reading.image_size is not None:
        size = reading.image_size
        base = replace(base, height=size, width=size, resize=reading.resize or size)
    elif reading.resize is not None:
        base = replace(base, resize=reading.resize)
    return base


def for_any_images(
    reading: Reading, sizes: npt.NDArray[np.int64], *, all_gray: bool
) -> Preprocessing:
    """The preprocessing of images of any size: the network's, the options', or from the images.

    `sizes` [N, 2] are (height, width) of the training images. Images that are all of one size up
    to 96 pixels stay as they are; others become 64 × 64. Channels: the network's, those of
    `mean`, or one if every image is gray. Without the network's own, mean and std are
    ImageNet's for color and 0.5, 0.25 for gray.
    """
    if reading.preprocessing is not None:
        base = reading.preprocessing
        if base.resize is None:
            base = replace(base, resize=min(base.height, base.width))
        return with_options(base, reading)
    one_size = len(sizes) and (sizes == sizes[0]).all() and sizes[0].max() <= LARGEST_AS_IT_IS
    height, width = map(int, sizes[0]) if one_size else (DEFAULT_SIZE, DEFAULT_SIZE)
    return with_options(of_kind(height, width, gray=all_gray), reading)


def of_kind(height: int, width: int, *, gray: bool) -> Preprocessing:
    """Images of one size with the usual mean and std: ImageNet's for color, 0.5, 0.25 for gray."""
    mean, std = (GRAY_MEAN, GRAY_STD) if gray else (IMAGENET_MEAN, IMAGENET_STD)
    return Preprocessing(height, width, mean, std, min(height, width))


def by_looking(source: Source, labels: Rows, reading: Reading) -> Preprocessing:
    """`for_any_images`, from the sizes and colors of 64 of the images, chosen over all classes.

    `labels`: those of the training images in `source`.
    """
    seen = [source.open(int(i)) for i in sample(labels, LOOKED_AT)]
    return for_any_images(
        reading,
        np.array([(i.height, i.width) for i in seen], np.int64),
        all_gray=all(i.mode in ("1", "L", "LA") for i in seen),
    )


def class_index(found: Sequence[str], reading: Reading, *, where: str) -> tuple[str, ...]:
    """The classes in the order of the network's outputs, for the class names found in the data.

    Those of the network if the data has the same names ("/" in a name is "_" in a folder's);
    when only testing, the data may lack some. Otherwise the data's own, sorted as torchvision
    sorts them, with a warning if the network knew as many others. Raises DataError for names
    that differ only in upper and lower case, and when testing, for a class unknown to the network.
    """
    by_case: dict[str, str] = {}
    for name in found:
        other = by_case.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"{where} has the classes {other!r} and {name!r}, which differ only in upper and "
                f"lower case; merge or rename one"
            )
    own = tuple(sorted(found))
    if reading.classes is None:
        return own
    known = {safe_name(c) for c in reading.classes}
    unknown = [c for c in own if safe_name(c) not in known]
    if reading.only_tests and unknown:
        raise DataError(
            f"{where} has the class {unknown[0]!r}, which the network does not know; "
            f"it knows {_few(reading.classes)}"
        )
    if not unknown and (reading.only_tests or len(own) == len(known)):
        return reading.classes
    if len(own) == len(known):
        warnings.warn(
            f"{where} has other classes ({_few(own)}) than the checkpoint "
            f"({_few(reading.classes)}); the dense model's accuracy on them is meaningless",
            FggpWarning,
            stacklevel=2,
        )
    return own


def safe_name(name: str) -> str:
    """A class's name as a folder's."""
    return name.replace("/", "_")


def _few(names: Sequence[str], n: int = 3) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
