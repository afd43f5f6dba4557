"""Decoding many images in worker processes, with numpy and Pillow alone."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np

from fggp_deploy.common.progress import Progress
from fggp_deploy.data.types import Images, Split, Stream
from fggp_deploy.errors import MachineError

R = TypeVar("R")
_CHUNK = 64
_WORTH_IT = 1024  # images; with fewer, a pool costs more than it gains
_job: Callable[[range], Any] | None = None  # of a worker process


def in_memory(stream: Stream, *, workers: int, progress: Progress, what: str) -> Split:
    """Decode a whole stream once. `progress(what, done, total)` counts images."""
    out = np.empty((len(stream), *stream.preprocessing.image_shape), np.uint8)
    done = 0
    for images in chunked(_Read(stream), len(stream), workers=workers):
        out[done : done + len(images)] = images
        done += len(images)
        progress(what, done, len(stream))
    return Split(out, stream.labels)


def chunked(job: Callable[[range], R], n: int, *, workers: int) -> Iterator[R]:
    """`job(range)` over 0 … n − 1 in pieces, in order; in processes if there is enough work.

    `job` must be picklable. Raises MachineError if a process dies.
    """
    pieces = [range(i, min(i + _CHUNK, n)) for i in range(0, n, _CHUNK)]
    if workers < 1 or n < _WORTH_IT or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(job, pieces)
        return
    # fork: it needs no `if __name__ == "__main__"` in the caller's script; the children run only
    # Pillow and numpy
    context = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(workers, context, _set_job, (job,)) as pool:
            yield from pool.map(_run_job, pieces)
    except BrokenProcessPool as e:
        raise MachineError(
            "a process that decodes images died, perhaps because memory ran out; give fewer "
            "--workers"
        ) from e


class _Read:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __call__(self, index: range) -> Images:
        return self.stream.read(index)


def _set_job(job: Callable[[range], Any]) -> None:
    global _job
    _job = job


def _run_job(index: range) -> Any:
    assert _job is not None  # _set_job ran first
    return _job(index)


def bytes_of(streams: Sequence[Stream]) -> int:
    """Bytes of all the framed images."""
    return sum(len(s) * int(np.prod(s.preprocessing.image_shape)) for s in streams)
