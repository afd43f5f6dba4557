"""The errors that a user sees: each states the rule, the values, and the cure, on one line."""

from __future__ import annotations

import difflib
import re
import shlex
import signal
from collections.abc import Iterable
from os.path import commonprefix
from typing import ClassVar

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_MANY = 50  # names that still fit in a message


class FggpError(Exception):
    """Base of every expected error; `exit_code` is what the command line ends with.

    `reported`: another process of the same run has reported to the user what went wrong.
    """

    exit_code: ClassVar[int] = 2
    reported: bool = False


class UserError(FggpError):
    """The user asked for something that cannot be done as asked (exit code 2)."""


class ConfigError(UserError, ValueError):
    """An option or argument has a value outside its domain."""


class UnknownName(ConfigError):
    """A model, data set, method or format that is not registered; `tail`: what else to say."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, tail: str = "") -> None:
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=5)
        nearest = max(close, key=lambda k: _likeness(name, k), default=None)
        hint = f"did you mean {nearest!r}? " if nearest else ""
        if len(known) > _MANY:
            near = difflib.get_close_matches(name, known, n=10, cutoff=0.5)
            known = [*near, f"{len(known) - len(near)} others"]
        super().__init__(f"unknown {kind} {name!r}; {hint}known: {', '.join(known)}{tail}")


def command(*words: object) -> str:
    """A command for a message, which can be pasted into a shell.

    >>> command("fggp-deploy", "export", "my runs/a")
    "`fggp-deploy export 'my runs/a'`"
    """
    return f"`{quoted(*words)}`"


def quoted(*words: object) -> str:
    """Words of a command line, quoted for the shell if they need it."""
    return shlex.join(map(str, words))


def shortened(text: object, limit: int = 120) -> str:
    """A text as one line of at most `limit` characters, cut between words if that is possible.

    Without the colors that it may have for a terminal.

    >>> shortened("unexpected end of\\nfile", 20), shortened("unexpected end of file", 16)
    ('unexpected end of …', 'unexpected end …')
    """
    line = " ".join(_COLOR.sub("", str(text)).split())
    if len(line) <= limit:
        return line
    room = limit - 2
    cut = line[:room] if line[room] == " " else line[:room].rpartition(" ")[0] or line[:room]
    return f"{cut.rstrip()} …"


def _likeness(name: str, known: str) -> tuple[float, int]:
    ratio = difflib.SequenceMatcher(None, known, name).ratio()
    return ratio, len(commonprefix((name, known)))  # noqa: RUF071, names are not paths


class TargetBelowStart(ConfigError):
    """The checkpoint is already sparser than the target."""


class ResumeRefused(ConfigError):
    """A run's folder was named again with other options or other inputs."""


class Stopped(FggpError):
    """A signal ended the run, after everything was saved (exit code 128 + the signal's number)."""

    def __init__(self, signal: signal.Signals, step: int, n_steps: int, folder: object) -> None:
        super().__init__(
            f"stopped by {signal.name} after step {step} of {n_steps}, everything is saved; the "
            f"same command with {quoted('--out', folder)} resumes"
        )
        self.exit_code = 128 + signal  # type: ignore[misc]


class LayerCollapse(UserError):
    """A pruning step would remove every weight of a layer."""


class TrainingDiverged(UserError):
    """Loss or weights became NaN or infinite."""


class FileError(UserError):
    """A file is missing, truncated, corrupt, or not what it was said to be."""


class CheckpointError(FileError):
    """A checkpoint cannot be read or does not fit the model."""


class ModelFileError(FileError):
    """An ONNX file or CSR folder cannot be read or breaks the format."""


class DataError(FileError):
    """A data set is missing, damaged, or does not fit the model."""


class MachineError(FggpError):
    """The environment lacks something: a package, a device, disk space, permission (exit 3)."""

    exit_code = 3


class KernelsDisagree(MachineError):
    """The outputs of the sparse kernels are not those of ONNX Runtime."""


class RankLost(MachineError):
    """Another process of a run on several devices ended or does not answer."""


class RanksDiffer(MachineError):
    """The processes of a run do not hold the same masks, options or inputs."""


class FggpWarning(UserWarning):
    """A warning that a user should act on."""
