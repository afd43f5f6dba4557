"""Run a function in a child process with limits on time and memory.

Native libraries, such as onnx and onnxruntime, can crash, never return or fill the memory when a
file is damaged or hostile. In a child process this costs one clear error. The child is a fork: it
starts in about 10 ms and needs no copy of the model. On systems without fork (Windows) the function
runs in this process, without limits.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import selectors
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil

from fggp_deploy.errors import FggpError, MachineError, ModelFileError

_CHUNK = 1 << 20
# The first byte of what the child sends; the rest is the result or the message.
_RESULT, _FILE_ERROR, _MACHINE_ERROR, _NO_MEMORY, _OTHER_ERROR = b"R", b"F", b"M", b"N", b"O"


@dataclass(frozen=True)
class Limits:
    """What a child may use: seconds of wall clock, and bytes beyond what this process holds.

    `memory_bytes` None means the memory that is available when the child starts. `cure` is added to
    the message if the time was too short.
    """

    seconds: float
    memory_bytes: int | None = None
    cure: str = ""

    @property
    def bytes_allowed(self) -> int:
        """`memory_bytes`, and never more than is available."""
        available = int(psutil.virtual_memory().available)
        return available if self.memory_bytes is None else min(self.memory_bytes, available)


GRAPH_PASS = Limits(seconds=60, memory_bytes=8 << 30)  # for one pass of onnx over a graph


def confined(work: Callable[[], bytes], *, what: str, limits: Limits) -> bytes:
    """Return what `work` returns in a child process; `what` is its name in errors.

    Raises ModelFileError if `work` raises it, crashes, or exceeds a limit; MachineError if `work`
    raises it or no process can be started; RuntimeError for any other exception of `work`.
    """
    if not hasattr(os, "fork"):
        return work()
    allowed = limits.bytes_allowed
    receiving, sending = os.pipe()
    try:
        child = _fork()
    except OSError as e:
        os.close(receiving)
        os.close(sending)
        raise MachineError(f"cannot start a process for {what}: {e.strerror or e}") from e
    if not child:
        os.close(receiving)
        _be_child(work, sending, limits.seconds, allowed)
    os.close(sending)
    status = None
    try:
        sent = _received(receiving, limits.seconds)
        if sent is None:
            raise _too_slow(what, limits)
        status = os.waitpid(child, 0)[1]
    finally:
        os.close(receiving)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise _killed(what, os.WTERMSIG(status), limits)
    if status:
        raise MachineError(f"the process for {what} failed before it could send its result")
    return _opened(sent, what, allowed)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads; the child starts none of its own before it has its limits
        # and takes no lock that a thread of this process could hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.stdout.flush()
        sys.stderr.flush()
        return os.fork()


def _be_child(work: Callable[[], bytes], sending: int, seconds: float, memory: int) -> NoReturn:
    """Run `work` under the limits, send the outcome, and end this process."""
    try:
        _set_limits(seconds, memory)
        try:
            sent = _RESULT + work()
        except MachineError as e:
            sent = _MACHINE_ERROR + str(e).encode(errors="replace")
        except FggpError as e:
            sent = _FILE_ERROR + str(e).encode(errors="replace")
        except MemoryError:
            sent = _NO_MEMORY
        except Exception as e:
            sent = _OTHER_ERROR + f"{type(e).__name__}: {e}".encode(errors="replace")
        for i in range(0, len(sent), _CHUNK):
            rest = memoryview(sent)[i : i + _CHUNK]
            while rest:
                rest = rest[os.write(sending, rest) :]
        os._exit(0)
    finally:
        os._exit(1)  # what was sent may be incomplete


def _set_limits(seconds: float, memory: int) -> None:
    import resource  # not on Windows

    faulthandler.disable()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # hide what a crashing library prints
        os.dup2(silent, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # This ends the child even if its parent was killed and does not watch the time.
    cpu = math.ceil(seconds * (os.cpu_count() or 1)) + 1
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # SIGXCPU first, then SIGKILL
    held = _held_bytes()
    if held is not None:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (held + memory, held + memory))


def _held_bytes() -> int | None:
    """The private writable memory of this process, which RLIMIT_DATA counts; Linux only."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def _received(source: int, seconds: float) -> bytes | None:
    """All that the child sends; None if it does not end in time."""
    deadline = time.monotonic() + seconds
    chunks: list[bytes] = []
    with selectors.DefaultSelector() as selector:  # select() takes no descriptor above 1023
        selector.register(source, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(source, _CHUNK)
            if not chunk:
                return b"".join(chunks)
            chunks.append(chunk)
    return None


def _too_slow(what: str, limits: Limits) -> ModelFileError:
    return ModelFileError(f"{what} did not end within {limits.seconds:g} s{limits.cure}")


def _killed(what: str, number: int, limits: Limits) -> ModelFileError:
    if number == signal.SIGXCPU:
        return _too_slow(what, limits)
    if number == signal.SIGKILL:
        return ModelFileError(f"{what} was killed; it probably needs more memory than is available")
    return ModelFileError(
        f"{what} crashed ({signal.Signals(number).name}); the file is damaged, or made to do so"
    )


def _opened(sent: bytes, what: str, allowed: int) -> bytes:
    kind, content = sent[:1], sent[1:]
    if kind == _RESULT:
        return content
    text = content.decode(errors="replace")
    if kind == _MACHINE_ERROR:
        raise MachineError(text)
    if kind == _FILE_ERROR:
        raise ModelFileError(text)
    if kind == _NO_MEMORY:
        raise ModelFileError(f"{what} needs more than {allowed / 1e9:.1f} GB of memory")
    if kind == _OTHER_ERROR:
        raise RuntimeError(text)
    raise ModelFileError(f"{what} crashed")
