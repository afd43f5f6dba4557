"""Small data sets live on the device as uint8; batches are cut, augmented and normalised there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fggp_deploy.data.types import Dataset, Preprocessing, Split
from fggp_deploy.errors import ConfigError, DataError


class Batches:
    """One split on a device, served as normalised float32 [B, C, H, W] and int64 [B].

    The order of images and the augmentation come from a CPU generator alone, so that a seed gives
    the same batches on every device.
    """

    def __init__(
        self, split: Split, preprocessing: Preprocessing, *, batch_size: int, device: torch.device
    ) -> None:
        want = (preprocessing.height, preprocessing.width, preprocessing.channels)
        if split.images.shape[1:] != want:
            raise DataError(f"images are {split.images.shape[1:]}, the network wants {want}")
        if not len(split):
            raise DataError("the data set has a part without images")
        images = torch.tensor(split.images).permute(0, 3, 1, 2)
        self.images = images.to(device, memory_format=torch.contiguous_format)
        self.labels = torch.tensor(split.labels).to(device)
        self.batch_size = batch_size
        self._scale = torch.tensor([255.0 * s for s in preprocessing.std], device=device)
        self._mean = torch.tensor([255.0 * m for m in preprocessing.mean], device=device)

    def shuffled(
        self, generator: torch.Generator, *, crop_padding: int, flip: bool, skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of augmented training batches, less the first `skip`.

        What is left out is drawn from the generator all the same: the rest is as it would be.
        """
        order = torch.randperm(len(self.labels), generator=generator)
        for i in range(len(self.labels) // self.batch_size):
            index = order[i * self.batch_size : (i + 1) * self.batch_size]
            moves = draw_moves(len(index), crop_padding, flip, generator)
            if i < skip:
                continue
            x = crop_and_flip(self.images[index.to(self.images.device)], crop_padding, *moves)
            yield self._normalise(x), self.labels[index.to(self.labels.device)]

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, as it is."""
        for x, y in zip(
            self.images.split(4 * self.batch_size),
            self.labels.split(4 * self.batch_size),
            strict=True,
        ):
            yield self._normalise(x), y

    def _normalise(self, x: Tensor) -> Tensor:
        x = (x.float() - self._mean.view(1, -1, 1, 1)) / self._scale.view(1, -1, 1, 1)
        return x.contiguous(memory_format=torch.channels_last)


def n_training_batches(data: Dataset, batch_size: int) -> int:
    """Full batches in an epoch; the rest of the images waits for another shuffle.

    Raises ConfigError when there are fewer images than one batch.
    """
    if batch_size > len(data.train):
        raise ConfigError(
            f"--batch-size {batch_size} is more than the {len(data.train)} training images"
        )
    return len(data.train) // batch_size


def draw_moves(
    n: int, padding: int, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """For n images a shift of up to `padding` pixels, int64 [2, n], and who is mirrored, bool [n].

    A draw of its own for each image, from a CPU generator.
    """
    shift = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
    return shift, (torch.rand(n, generator=generator) < 0.5) & flip


def crop_and_flip(x: Tensor, padding: int, shift: Tensor, mirrored: Tensor) -> Tensor:
    """Shift each image of x, uint8 [B, C, H, W], and mirror some; zeros come in."""
    b, _, h, w = x.shape
    dy, dx = shift.to(x.device)
    rows = torch.arange(h, device=x.device) + dy[:, None]
    cols = torch.arange(w, device=x.device).expand(b, w)
    cols = torch.where(mirrored.to(x.device)[:, None], w - 1 - cols, cols) + dx[:, None]
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    at = torch.arange(b, device=x.device)
    return padded[at[:, None, None], rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
