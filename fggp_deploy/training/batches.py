"""Batches for training and testing, normalized on the device, from memory or from a stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from fggp_deploy.data.types import Dataset, Part, Preprocessing, Split
from fggp_deploy.distributed.ranks import ALONE, Ranks
from fggp_deploy.errors import ConfigError, DataError
from fggp_deploy.training.augment import Augmentation, apply, draw, erase


class Batches(Protocol):
    """One part of a data set, as normalized float32 [B, C, H, W] and int64 [B] on a device.

    The order of images and the augmentation come only from a CPU generator, so a seed gives the
    same batches on every device. Each of several `ranks` draws for the whole batch and gets its
    share. `labels`: of the whole part, on the device.
    """

    labels: Tensor
    ranks: Ranks

    def shuffled(
        self, generator: torch.Generator, augmentation: Augmentation, *, skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of augmented training batches, without the first `skip`.

        The skipped batches are still drawn from the generator, so the others are the same bit for
        bit as without `skip`.
        """
        ...

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once over all ranks, without augmentation."""
        ...


def open_batches(
    part: Part,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
    workers: int | None = None,
    ranks: Ranks = ALONE,
) -> Batches:
    """Batches of images in memory on the device, or of a stream decoded in `workers` processes.

    `batch_size` counts the images of all ranks. Raises DataError for a part without images, or with
    images that do not have the network's size.
    """
    if not len(part):
        raise DataError(
            "the data set has a part without images; add images to it, or leave the part out"
        )
    if isinstance(part, Split):
        return MemoryBatches(part, preprocessing, batch_size=batch_size, device=device, ranks=ranks)
    from fggp_deploy.data.reading import n_workers
    from fggp_deploy.training.stream_batches import StreamBatches

    return StreamBatches(
        part, batch_size=batch_size, device=device, workers=n_workers(workers), ranks=ranks
    )


class MemoryBatches:
    """Batches of a part that is on the device as uint8; augmented and normalized there."""

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        want = preprocessing.image_shape
        if split.images.shape[1:] != want:
            raise DataError(
                f"images are {split.images.shape[1:]}, but the network takes {want}; give data of "
                "that size"
            )
        images = torch.tensor(split.images).permute(0, 3, 1, 2)
        self.images = images.to(device, memory_format=torch.contiguous_format)
        self.labels = torch.tensor(split.labels).to(device)
        self.batch_size = batch_size
        self.ranks = ranks
        self._normalize = Normalize(preprocessing, device)

    def shuffled(
        self, generator: torch.Generator, augmentation: Augmentation, *, skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See Batches."""
        order = torch.randperm(len(self.labels), generator=generator)
        height, width = self.images.shape[2:]
        share = self.ranks.share(self.batch_size)
        for i in range(len(self.labels) // self.batch_size):
            draws = draw(augmentation, self.batch_size, (height, width), generator)
            if i < skip:
                continue
            draws = draws.part(share)
            batch = order[i * self.batch_size : (i + 1) * self.batch_size]
            index = batch[share].to(self.images.device)
            x = self._normalize(apply(augmentation, self.images[index], draws))
            if draws.rectangles is not None:
                x = erase(x, draws.rectangles)
            yield x, self.labels[index]

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See Batches."""
        parts = (t.split(4 * self.batch_size) for t in (self.images, self.labels))
        for x, y in islice(zip(*parts, strict=True), self.ranks.rank, None, self.ranks.world):
            yield self._normalize(x), y


class Normalize:
    """(pixel − 255·mean) / (255·std), per channel, of uint8 [B, C, H, W], on a device."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._scale = torch.tensor([255.0 * s for s in preprocessing.std], device=device)
        self._mean = torch.tensor([255.0 * m for m in preprocessing.mean], device=device)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalize to float32, in the channels-last layout."""
        x = (x.float() - self._mean.view(1, -1, 1, 1)) / self._scale.view(1, -1, 1, 1)
        return x.contiguous(memory_format=torch.channels_last)


def n_training_batches(data: Dataset, batch_size: int) -> int:
    """Full batches per epoch; the remaining images are left out of that epoch.

    Raises ConfigError if there are fewer images than one batch.
    """
    if batch_size > len(data.train):
        raise ConfigError(
            f"--batch-size {batch_size} is more than the {len(data.train)} training images; give "
            "a smaller one"
        )
    return len(data.train) // batch_size
