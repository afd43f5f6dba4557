"""The processes of a run: one alone, or those that torchrun starts, a device each.

All of them do the same run. Each draws the same batches and computes its share of them; gradients
and statistics are averaged, so that after every step all hold the same network, bit for bit. Only
the lead, rank 0, writes. With one process nothing here does anything.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fggp_deploy.distributed import environment
from fggp_deploy.errors import (
    ConfigError,
    FggpError,
    MachineError,
    RankLost,
    RanksDiffer,
    shortened,
)

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)  # how long a process waits for one that lives but does not answer
_groups = itertools.count()  # one a run, for processes that do several
_FAILED = "failed"  # counts the processes that failed, in the group's store
_NEW_NAME = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # torch 2.13
_OWN_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}
_PLAIN_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Ranks:
    """This process among the `world` processes of a run; its number is `rank`, the lead's is 0.

    What says "all ranks call" waits until each has called it, at the same point of the run.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank must be in 0 … {self.world - 1}, got {self.rank}")

    @classmethod
    def current(cls) -> Ranks:
        """Those of torch.distributed's default group; one alone where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return ALONE

    @property
    def leads(self) -> bool:
        """True in the one process that writes and speaks."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Which of a batch's n images are this process's; n must be a multiple of `world`."""
        each = n // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def check_batch_size(self, n: int) -> None:
        """Raise ConfigError when a batch of n images cannot be shared out evenly."""
        least = 2 if self.world > 1 else 1  # a batch norm needs two values
        if n % self.world or n < least * self.world:
            low = max(n // self.world, least) * self.world
            near = f"{low} or {low + self.world}"
            raise ConfigError(
                f"--batch-size {n}, which counts the images of all {self.world} processes, must "
                f"give each the same number, 2 at least; give {near}"
            )

    def from_lead(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, done by the lead alone; all ranks call."""
        if self.world == 1:
            return work()
        told: list[Any] = [None, None]
        if self.leads:
            try:
                told[0] = work()
            except FggpError as e:
                told[1] = e
        dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank; all ranks call."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def most(self, *values: int) -> tuple[int, ...]:
        """The largest of each value over the ranks; all ranks call."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.int64, device=_meeting_place())
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tuple(tensor.tolist())

    def total(self, count: Tensor) -> Tensor:
        """The sum of an integer tensor over the ranks; all ranks call."""
        if self.world > 1:
            dist.all_reduce(count)
        return count

    @torch.no_grad()
    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Average floating-point tensors over the ranks, in place; all ranks call."""
        if self.world == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for t in tensors:
            if t.is_floating_point():
                by_type.setdefault(t.dtype, []).append(t)
        for same in by_type.values():
            flat = torch.cat([t.reshape(-1) for t in same])
            dist.all_reduce(flat)
            parts = flat.div_(self.world).split([t.numel() for t in same])
            for t, part in zip(same, parts, strict=True):
                t.copy_(part.view_as(t))

    def check_same(self, digest: Callable[[], str], otherwise: str) -> None:
        """Raise RanksDiffer(otherwise) unless all ranks' digests, hex, are one; all ranks call."""
        if self.world == 1:
            return
        mine = list(bytes.fromhex(digest()))
        high = self.most(*mine, *(-b for b in mine))
        if any(h + low for h, low in zip(high[: len(mine)], high[len(mine) :], strict=True)):
            raise RanksDiffer(otherwise)

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model as training calls it: its gradients are averaged during backward.

        Batch-norm statistics are averaged after each step instead, over all images; see `mean_`.
        Parameters that are not used keep no gradient, as with one process.
        """
        if self.world == 1:
            return model
        # Looking for unused parameters also keeps the order in which gradients are packed for the
        # wire as it is in a process's first step. Sums of floats depend on that order, and a run
        # that goes on shall add up as if it had never stopped.
        return DistributedDataParallel(model, find_unused_parameters=True, **_OWN_BUFFERS)

    def synced(self, model: nn.Module) -> nn.Module:
        """On a GPU, batch norms that normalise by the whole batch's statistics, not a share's.

        Changes the model in place, names and parameters stay. A network's own subclasses of batch
        norm are left as they are, since they may do more.
        """
        if self.world == 1 or _kind(model) != "cuda":
            return model
        for module in list(model.modules()):
            for name, child in module.named_children():
                if type(child) in _PLAIN_BATCH_NORMS:
                    setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        return model


ALONE = Ranks()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Work as one of the processes that torchrun started, if it did; gloo on CPUs, NCCL on GPUs.

    A group that the caller has made already is used and left alone. Raises RankLost when another
    process ends or cannot be reached. Where several fail, `told` is set on all errors but the
    first, so that the user hears of one.
    """
    if Ranks.current().world > 1 or environment.world() == 1:
        yield Ranks.current()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
        own = dist.PrefixStore(
            f"fggp-deploy/{next(_groups)}", store
        )  # not what an earlier run left
        dist.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=PATIENCE)
    except (ValueError, RuntimeError) as e:
        raise MachineError(
            f"the processes of this run cannot find each other ({_line(e)}); start them with "
            f"torchrun --nproc-per-node N -m fggp_deploy.cli"
        ) from e
    try:
        yield Ranks.current()
    except Exception as e:
        first = _first_to_fail()
        error = _lost(e) if _is_lost(e) else e
        if isinstance(error, FggpError):
            error.told = not first
        if error is e:
            raise
        raise error from e
    # Whoever drops the group last waits for its threads; DistributedDataParallel does so holding
    # the interpreter's lock, which those may need to end. So it has to go before.
    gc.collect()
    dist.destroy_process_group()  # after a failure it goes with the process: it may not answer


def _kind(model: nn.Module) -> str:
    return next(model.parameters()).device.type


def _meeting_place() -> torch.device:
    """Where a tensor must be for all processes to reach it; waits for no GPU if that can be."""
    has_cpu = "gloo" in str(dist.get_backend_config())
    return torch.device("cpu") if has_cpu else torch.device("cuda", torch.cuda.current_device())


def _first_to_fail() -> bool:
    try:
        store = dist.distributed_c10d._get_default_store()
        return bool(store.add(_FAILED, 1) == 1)
    except RuntimeError:  # the store was a process that is gone
        return True


def _is_lost(e: Exception) -> bool:
    """True for what torch.distributed raises when another process does not answer."""
    return isinstance(e, dist.DistError) or (
        type(e) is RuntimeError and any(word in str(e) for word in ("gloo", "NCCL"))
    )


def _lost(e: Exception) -> RankLost:
    return RankLost(
        f"another process of this run ended or does not answer ({_line(e)}); what it said stands "
        f"above, if it could. The same command, with --out, goes on from the last savepoint"
    )


def _line(e: Exception) -> str:
    """The sentence of torch's message that says something: no place in its source, no advice."""
    line = (str(e).splitlines() or [""])[0].partition(". ")[0]
    return shortened(re.sub(r"^\[[^]]*\] ", "", line), 150)
