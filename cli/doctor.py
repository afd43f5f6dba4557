"""fggp-deploy doctor."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import typer

from . import options as o
from .endings import ends_cleanly


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis. `cure` is empty when all is well."""

    what: str
    ok: bool
    found: str
    cure: str = ""
    needed: bool = True


@ends_cleanly
def doctor(json: o.Json = False) -> None:
    """Say what this machine has, what is missing, and how to get it.

    Exit code 3 when something is missing that export, verify or inspect need.
    """
    from fggp_deploy.artifacts.provenance import machine

    from .render import as_json, stdout

    hardware = machine()
    checks = [check() for check in CHECKS]
    if json:
        as_json({"hardware": hardware, "checks": [c.__dict__ for c in checks]})
    else:
        stdout.print(f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['os']}")
        stdout.print(f"vector instructions: {' '.join(hardware['features']) or 'none known'}")
        for c in checks:
            sign = "ok     " if c.ok else "MISSING" if c.needed else "none   "
            stdout.print(
                f"{sign}  {c.what}: {c.found}" + (f"; {c.cure}" if c.cure else ""), markup=False
            )
    if any(not c.ok and c.needed for c in checks):
        raise typer.Exit(3)


def _package(name: str, *, for_what: str, needed: bool) -> Callable[[], Check]:
    def check() -> Check:
        try:
            version = getattr(importlib.import_module(name), "__version__", "found")
            return Check(name, True, f"{version}, for {for_what}")
        except Exception as e:  # a broken install can raise anything at import
            return Check(
                name, False, f"cannot be imported ({type(e).__name__}), for {for_what}",
                f"pip install {name}", needed,
            )  # fmt: skip

    return check


def _torchvision() -> Check:
    from fggp_deploy.data.torchvision_import import import_torchvision
    from fggp_deploy.errors import MachineError

    try:
        return Check("torchvision", True, f"{import_torchvision().__version__}, for downloads")
    except MachineError as e:
        return Check("torchvision", False, str(e), needed=False)


def _kernels() -> Check:
    from fggp_deploy.kernels import status

    found = status()
    return Check("sparse kernels", found.path is not None, found.text, needed=False)


def _gpu() -> Check:
    try:
        import torch
    except ImportError:
        return Check("GPU", False, "unknown without torch", needed=False)
    if not torch.cuda.is_available():
        cure = "prune runs on the CPU; with a GPU, install a CUDA build of torch"
        return Check("GPU", False, "no CUDA device", cure, needed=False)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("GPU", True, ", ".join(names))


CHECKS: tuple[Callable[[], Check], ...] = (
    _package("numpy", for_what="everything", needed=True),
    _package("onnx", for_what="export and verify", needed=True),
    _package("onnxruntime", for_what="verify", needed=True),
    _package("scipy", for_what="csr and statistics", needed=True),
    _package("safetensors", for_what="checkpoints", needed=True),
    _package("torch", for_what="train, prune and export", needed=False),
    _kernels,
    _torchvision,
    _package("onnxscript", for_what="export", needed=False),
    _package("tensorboard", for_what="watching a run", needed=False),
    _gpu,
)
