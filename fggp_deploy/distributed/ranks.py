"""The processes of a run: a single one, or those that torchrun starts, one per device.

All ranks execute the same run. Each draws the same batches and computes its part of them. Gradients
and statistics are averaged, so that all ranks hold bit-identical networks after every step. Only
the lead, rank 0, writes. With a single process, nothing in this module has an effect.
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
PATIENCE = timedelta(minutes=30)  # how long a process waits for another one to answer
_groups = itertools.count()  # one per run, for a process with several runs
_FAILED = "failed"  # the key in the group's store that counts failed processes
_NEW_NAME = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # torch 2.13
_OWN_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}
_PLAIN_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Ranks:
    """This process, number `rank` of the `world` processes of a run; the lead is rank 0.

    A method that says "all ranks call" waits until every rank has called it, at the same point of
    the run.
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank must be in 0 … {self.world - 1}, got {self.rank}")

    @classmethod
    def current(cls) -> Ranks:
        """The ranks of torch.distributed's default group; a single process if there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return ALONE

    @property
    def leads(self) -> bool:
        """True in the process that writes files and messages."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's part of a batch of n images; n must be a multiple of `world`."""
        each = n // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def check_batch_size(self, n: int) -> None:
        """Raise ConfigError if a batch of n images cannot be divided evenly."""
        least = 2 if self.world > 1 else 1  # a batch norm needs two values
        if n % self.world or n < least * self.world:
            low = max(n // self.world, least) * self.world
            near = f"{low} or {low + self.world}"
            raise ConfigError(
                f"--batch-size {n} counts the images of all {self.world} processes and must be "
                f"divisible among them with at least 2 each; give {near}"
            )

    def from_lead(self, work: Callable[[], T]) -> T:
        """The result or error of `work`, which only the lead executes; all ranks call."""
        if self.world == 1:
            return work()
        shared: list[Any] = [None, None]
        if self.leads:
            try:
                shared[0] = work()
            except FggpError as e:
                shared[1] = e
        dist.broadcast_object_list(shared, src=0)
        if shared[1] is not None:
            raise shared[1]
        return shared[0]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank; all ranks call."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def most(self, *values: int) -> tuple[int, ...]:
        """The maximum of each value over the ranks; all ranks call."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.int64, device=_collective_device())
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
        """Raise RanksDiffer(otherwise) unless all hex digests are the same; all ranks call."""
        if self.world == 1:
            return
        mine = list(bytes.fromhex(digest()))
        high = self.most(*mine, *(-b for b in mine))
        if any(h + low for h, low in zip(high[: len(mine)], high[len(mine) :], strict=True)):
            raise RanksDiffer(otherwise)

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model that training calls: its gradients are averaged during backward.

        Batch-norm statistics are averaged after each step instead, see `mean_`. Unused parameters
        have no gradient, as with a single process.
        """
        if self.world == 1:
            return model
        # find_unused_parameters also keeps the order in which gradients are packed the same as in
        # the first step of a process. Sums of floats depend on that order, and a resumed run must
        # give the same sums as an uninterrupted one.
        return DistributedDataParallel(model, find_unused_parameters=True, **_OWN_BUFFERS)

    def synced(self, model: nn.Module) -> nn.Module:
        """On GPUs, make batch norms use the statistics of the whole batch, not of one rank's part.

        Changes the model in place; names and parameters stay the same. Subclasses of batch norm do
        not change, because they may do more.
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
    """Join the processes that torchrun started, if it did: gloo on CPUs, NCCL on GPUs.

    An existing process group is used and not closed. Raises RankLost if another process ends or
    does not answer. If several processes fail, `reported` is set on all errors except the first, so
    that the user sees one message.
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
        )  # not what an earlier run left behind
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
            error.reported = not first
        if error is e:
            raise
        raise error from e
    # Whoever releases the group last waits for its threads. DistributedDataParallel would do so
    # while holding the interpreter's lock, which these threads may need. So release it before.
    gc.collect()
    dist.destroy_process_group()  # not after a failure: it may not answer


def _kind(model: nn.Module) -> str:
    return next(model.parameters()).device.type


def _collective_device() -> torch.device:
    """The device for small collectives: the CPU if the backend allows, to not wait for a GPU."""
    has_cpu = "gloo" in str(dist.get_backend_config())
    return torch.device("cpu") if has_cpu else torch.device("cuda", torch.cuda.current_device())


def _first_to_fail() -> bool:
    try:
        store = dist.distributed_c10d._get_default_store()
        return bool(store.add(_FAILED, 1) == 1)
    except RuntimeError:  # the process that held the store has ended
        return True


def _is_lost(e: Exception) -> bool:
    """True for the errors of torch.distributed if another process does not answer."""
    return isinstance(e, dist.DistError) or (
        type(e) is RuntimeError and any(word in str(e) for word in ("gloo", "NCCL"))
    )


def _lost(e: Exception) -> RankLost:
    return RankLost(
        f"another process of this run ended or does not answer ({_line(e)}); its own message, if "
        f"any, is above. Run the same command with the same --out to resume from the last savepoint"
    )


def _line(e: Exception) -> str:
    """The informative sentence of torch's message, without its source location and advice."""
    line = (str(e).splitlines() or [""])[0].partition(". ")[0]
    return shortened(re.sub(r"^\[[^]]*\] ", "", line), 150)
