"""Batches of images that do not fit in memory: decoded and augmented in worker processes.

Every image's random choices come from a seed of its own that the main process draws, so that the
batches depend on neither the number of workers nor who decodes what.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fggp_deploy.common.torchvision_import import import_torchvision
from fggp_deploy.data.images import shrink
from fggp_deploy.data.preprocessing import Images, Preprocessing
from fggp_deploy.data.types import Stream
from fggp_deploy.distributed.ranks import ALONE, Ranks
from fggp_deploy.errors import FggpError, MachineError
from fggp_deploy.training.augment import Augmentation, draw_rectangles, erase
from fggp_deploy.training.batches import Normalize
from fggp_deploy.training.interruption import SIGNALS

_AHEAD = 2  # batches that each worker decodes ahead
_SMALLEST_CROP = 0.25  # share of an image's area that strong's crop keeps at least
# Rows, int64 [B], and their seeds; None if nothing is random.
BatchPlan = tuple[Tensor, Tensor | None]


class StreamBatches:
    """See Batches. `workers` processes decode; 0 decodes in this one."""

    def __init__(
        self,
        stream: Stream,
        *,
        batch_size: int,
        device: torch.device,
        workers: int,
        ranks: Ranks = ALONE,
    ) -> None:
        import_torchvision()  # once here, not in every worker
        self.stream = stream
        self.labels = torch.tensor(stream.labels).to(device)
        self.batch_size = batch_size
        self.device = device
        self.workers = workers
        self.ranks = ranks
        self._normalize = Normalize(stream.preprocessing, device)

    def shuffled(
        self, generator: torch.Generator, augmentation: Augmentation, *, skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See Batches."""
        n = len(self.stream) // self.batch_size * self.batch_size
        order = torch.randperm(len(self.stream), generator=generator)[:n]
        seeds = torch.randint(0, 2**62, (n,), generator=generator)
        p = self.stream.preprocessing
        rectangles = draw_rectangles(n, (p.height, p.width), generator)
        random = seeds if augmentation.preset != "none" else None
        decode = _Decode(self.stream, augmentation)
        share = self.ranks.share(self.batch_size)

        def shares(drawn: Tensor) -> list[Tensor]:
            return [t[..., share] for t in drawn.split(self.batch_size, dim=-1)[skip:]]

        batches = self._batches(decode, shares(order), random if random is None else shares(random))
        for (x, y), erased in zip(batches, shares(rectangles), strict=True):
            yield erase(x, erased) if augmentation.preset == "strong" else x, y

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See Batches."""
        rows = torch.arange(len(self.stream)).split(self.batch_size)
        mine = list(islice(rows, self.ranks.rank, None, self.ranks.world))
        yield from self._batches(_Decode(self.stream), mine, None)

    def _batches(
        self, decode: _Decode, rows: Sequence[Tensor], seeds: Sequence[Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of these rows, with their seeds if anything is random."""
        if not rows:
            return
        of_rows: Sequence[Tensor | None] = seeds or [None] * len(rows)
        plans: list[BatchPlan] = list(zip(rows, of_rows, strict=True))
        loader = DataLoader(
            decode,
            batch_size=None,
            sampler=plans,
            num_workers=self.workers,
            prefetch_factor=_AHEAD if self.workers else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_run,
            generator=torch.Generator(),  # unused here, but must not advance torch's own
        )
        try:
            for index, x in zip(rows, loader, strict=True):
                if isinstance(x, FggpError):
                    raise x
                x = x.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
                yield self._normalize(x), self.labels[index.to(self.device)]
        except RuntimeError as e:
            if "DataLoader worker" not in str(e) and "shared memory" not in str(e):
                raise
            raise MachineError(
                f"a process that decodes images died, perhaps for lack of (shared) memory; give "
                f"fewer --workers, or 0 ({str(e).splitlines()[0]:.100})"
            ) from e


def _leave_signals_to_the_run(worker: int) -> None:
    """Ignore signals in a worker: they reach the whole process group, and a run needs its batch."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Decode(Dataset[Any]):
    """BatchPlan → uint8 [B, H, W, C], or the error that names the image; runs in a worker."""

    def __init__(self, stream: Stream, augmentation: Augmentation | None = None) -> None:
        self.stream = stream
        self.augmentation = augmentation
        self.change = _transform(stream.preprocessing, augmentation)

    def __getitem__(self, plan: BatchPlan) -> Tensor | FggpError:
        rows, seeds = plan
        try:
            if seeds is None:
                return torch.from_numpy(self.stream.read(rows.tolist()))
            with torch.random.fork_rng(devices=[]):
                pairs = zip(rows.tolist(), seeds.tolist(), strict=True)
                return torch.from_numpy(np.stack([self._augmented(i, seed) for i, seed in pairs]))
        except FggpError as e:
            e.__cause__ = None  # a decoder's own exception need not pickle
            return e

    def _augmented(self, i: int, seed: int) -> Images:
        p = self.stream.preprocessing
        image = self.stream.open(i)
        if self.augmentation is not None and self.augmentation.preset == "basic":
            image = shrink(image, p, name=self.stream.name(i))
        torch.default_generator.manual_seed(
            seed
        )  # not torch.manual_seed: it is slow, for CUDA's sake
        return np.asarray(self.change(image), np.uint8).reshape(p.image_shape)


def _transform(p: Preprocessing, augmentation: Augmentation | None) -> Callable[[Image], Image]:
    """The torchvision transform of a preset for one image; draws from torch's own random state."""
    from torchvision.transforms import v2

    if augmentation is None or augmentation.preset == "none":
        return v2.Identity()
    size = (p.height, p.width)
    crop: Any = v2.RandomCrop(size, padding=augmentation.crop_padding)
    changes = [v2.RandomHorizontalFlip()] if augmentation.flip else []
    if augmentation.preset == "strong":
        how = v2.InterpolationMode(p.interpolation)
        crop = v2.RandomResizedCrop(size, scale=(_SMALLEST_CROP, 1), interpolation=how)
        changes.append(v2.TrivialAugmentWide())
    return v2.Compose([crop, *changes])
