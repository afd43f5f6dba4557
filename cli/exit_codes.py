"""Exit codes: a command ends an expected error with one line on stderr and a code."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from fggp_deploy.common.files import FULL
from fggp_deploy.common.plugins import method_entry_points, package_of
from fggp_deploy.common.printable import printable
from fggp_deploy.distributed import environment
from fggp_deploy.errors import FggpError, MachineError, Stopped, shortened

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED, INTERNAL = 130, 70


def with_exit_codes(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors into exit codes; `FGGP_DEBUG=1` shows tracebacks instead."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except FggpError as e:
            if os.environ.get("FGGP_DEBUG"):
                raise
            code, line = e.exit_code, f"{e}" if isinstance(e, Stopped) else f"error: {e}"
            if e.reported:
                line = ""
        except KeyboardInterrupt:
            code, line = INTERRUPTED, "interrupted"
        except BrokenPipeError:  # the reader of our output has closed it, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except ModuleNotFoundError as e:
            if e.name is None or e.name.startswith("fggp_deploy"):
                raise
            code = MachineError.exit_code
            line = f"error: this needs {e.name}, which is not installed; pip install {e.name}"
        except Exception as e:
            if os.environ.get("FGGP_DEBUG"):
                raise
            code, line = _unexpected(e)
        if line:
            print(printable(" ".join(line.split())), file=sys.stderr)
        if environment.world() > 1:  # leftover threads could keep the interpreter alive
            sys.stderr.flush()
            os._exit(code)
        raise typer.Exit(code)

    return wrapped


def _unexpected(e: Exception) -> tuple[int, str]:
    """The exit code and the line for an error that is not an FggpError."""
    if isinstance(e, OSError) and e.errno in FULL:
        where = f"cannot write {e.filename}: " if e.filename else ""
        return MachineError.exit_code, f"error: {where}the disk is full; free some space"
    if isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        return MachineError.exit_code, (
            f"error: there is not enough memory ({shortened(e) or type(e).__name__}); end other "
            "programs that use it, or take a smaller --batch-size"
        )
    return INTERNAL, (
        f"internal error: {type(e).__name__}: {e}; this is a bug in {_at_fault(e)}: "
        f"run again with FGGP_DEBUG=1 and report the traceback"
    )


def _at_fault(e: Exception) -> str:
    """Whose code raised the error: ours, unless a method of another package was running."""
    others = {point.module.split(".")[0]: point for point in method_entry_points().values()}
    for frame, line in reversed([*traceback.walk_tb(e.__traceback__)]):
        point = others.get(frame.f_globals.get("__name__", "").split(".")[0])
        if point is not None:
            where = f"{frame.f_code.co_filename}:{line}"
            return f"method {point.name!r} of {package_of(point)} ({where})"
    return "fggp-deploy"
