"""The compiled kernel library: finding it, loading it, and its instruction sets."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from fggp_deploy.errors import MachineError

# Only .so has been built and tested; the other two are the names that CMake would give.
_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_NAME = f"libfggp_kernels{_SUFFIX}"
_BUILD = "cmake -S . -B build -DCMAKE_BUILD_TYPE=Release && cmake --build build"


@dataclass(frozen=True)
class Status:
    """What `doctor` reports: `isa` is the best instruction set, empty without a library."""

    path: Path | None
    isa: str
    text: str


def library_path() -> Path | None:
    """The compiled library, or None: FGGP_KERNELS, else the installed one, else the checkout's."""
    override = os.environ.get("FGGP_KERNELS")
    if override:
        return Path(override) if Path(override).is_file() else None
    # An editable install keeps the library apart from the sources, so __file__ does not help.
    try:
        distribution = importlib.metadata.distribution("fggp-deploy")
        installed = Path(str(distribution.locate_file(f"fggp_deploy/kernels/{_NAME}")))
        if installed.is_file():
            return installed
    except importlib.metadata.PackageNotFoundError:
        pass
    built = Path(__file__).resolve().parents[2] / "build" / _NAME
    return built if built.is_file() else None


@functools.cache
def load() -> ctypes.CDLL:
    """The loaded library; raises a MachineError with the cure if there is none."""
    path = library_path()
    if path is None:
        raise MachineError(
            "the sparse kernels are not built; install a C++ compiler and run "
            f"`pip install .` again, or in a checkout `{_BUILD}`"
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as e:
        raise MachineError(f"the sparse kernels cannot be loaded: {e}; rebuild them") from e
    library.fggp_isa_name.restype = ctypes.c_char_p
    library.fggp_program_new.restype = ctypes.c_void_p
    return library


def isas() -> list[str]:
    """Instruction sets that the library has and this processor can run, best first."""
    library = load()
    names: list[str] = []
    index = 0
    while name := library.fggp_isa_name(index):
        if library.fggp_isa_supported(index):
            names.append(name.decode())
        index += 1
    return names


def chosen_isa() -> str:
    """The instruction set that the kernels use here; raises MachineError without the library."""
    return os.environ.get("FGGP_ISA") or isas()[0]


def isa_index(name: str) -> int:
    """The library's number of an instruction set; raises MachineError if it cannot run here."""
    library = load()
    index = 0
    while known := library.fggp_isa_name(index):
        if known.decode() == name and library.fggp_isa_supported(index):
            return index
        index += 1
    raise MachineError(f"no instruction set {name!r} here; available: {', '.join(isas())}")


def status() -> Status:
    """Whether the kernels can be used; never raises."""
    try:
        best = isas()[0]
    except MachineError as e:
        return Status(None, "", f"{e}; models run, but no faster than dense ones")
    return Status(library_path(), best, f"sparse kernels for {best}")
