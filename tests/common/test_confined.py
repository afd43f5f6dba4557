"""A child process with limits: whatever happens in it, the parent gets a result or one error."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

import psutil
import pytest

from fggp_deploy.common.confined import Limits, confined
from fggp_deploy.errors import ConfigError, MachineError, ModelFileError
from fggp_deploy.runtime.sessions import try_out

LONG = Limits(seconds=200)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork there are no limits")


def raising(error: Exception) -> Callable[[], bytes]:
    def work() -> bytes:
        raise error

    return work


def endless() -> bytes:
    while True:
        pass


def test_the_result_comes_back_whole():
    here = os.getpid()
    large = os.urandom(3_000_001)
    assert confined(lambda: large, what="it", limits=LONG) == large
    assert int(confined(lambda: str(os.getpid()).encode(), what="it", limits=LONG)) != here


def test_a_process_with_many_open_files():
    """The pipe to the child has a descriptor above 1023, which select() does not take."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 1100:
        pytest.skip("this process may not open as many files")
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1100, limits[1]))
        last = -1
        while last < 1023:
            last = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, last)
        assert confined(lambda: b"done", what="it", limits=LONG) == b"done"


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (ModelFileError("the file is odd"), ModelFileError, "^the file is odd$"),
        (ConfigError("a wrong option"), ModelFileError, "^a wrong option$"),
        (MachineError("no space"), MachineError, "^no space$"),
        (KeyError("x"), RuntimeError, "KeyError: 'x'"),
        (MemoryError(), ModelFileError, "it needs more than .* GB of memory"),
    ],
)
def test_errors_come_back(raised: Exception, kind: type[Exception], says: str):
    with pytest.raises(kind, match=says):
        confined(raising(raised), what="it", limits=LONG)


def test_a_crash_is_one_error(capfd):
    def crash() -> bytes:
        os.write(2, b"Assertion failed")
        os.abort()

    with pytest.raises(ModelFileError, match=r"it crashed \(SIGABRT\)"):
        confined(crash, what="it", limits=LONG)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stubborn", [False, True])
def test_what_never_ends_is_ended(stubborn: bool):
    def work() -> bytes:
        if stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return endless()

    before = psutil.Process().children()
    with pytest.raises(ModelFileError, match=r"it did not end within 0.2 s, be patient$"):
        confined(work, what="it", limits=Limits(0.2, cure=", be patient"))
    assert psutil.Process().children() == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory by RLIMIT_DATA")
def test_memory_is_limited():
    with pytest.raises(ModelFileError, match=r"more than 0\.1 GB of memory"):
        confined(lambda: bytes(1 << 30), what="it", limits=Limits(200, memory_bytes=100 << 20))
    assert (
        len(confined(lambda: bytes(1 << 20), what="it", limits=Limits(200, 100 << 20))) == 1 << 20
    )


def test_a_trial_has_a_time_limit_that_the_user_can_change(monkeypatch):
    monkeypatch.setenv("FGGP_TRIAL_SECONDS", "0.2")
    with pytest.raises(ModelFileError, match=r"first run of m.onnx did not end .*FGGP_TRIAL_SEC"):
        try_out(endless, "m.onnx")
    for wrong in ("soon", "nan", "-1", "inf"):
        monkeypatch.setenv("FGGP_TRIAL_SECONDS", wrong)
        with pytest.raises(ConfigError, match="must be a number of seconds"):
            try_out(endless, "m.onnx")
