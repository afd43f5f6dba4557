"""fggp-deploy doctor."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import typer

from . import options as o
from .exit_codes import with_exit_codes


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis. `cure` is empty if nothing is wrong.

    `needed`: export, verify or inspect fail without it. `broken`: installed, but it does not work.
    """

    what: str
    ok: bool
    found: str
    cure: str = ""
    needed: bool = True
    broken: bool = False

    @property
    def sign(self) -> str:
        """The word that the line begins with."""
        if self.ok:
            return "ok"
        return "MISSING" if self.needed else "BROKEN" if self.broken else "none"


@with_exit_codes
def doctor(json: o.Json = False) -> None:
    """Report what is installed on this machine, what is missing, and how to get it.

    The exit code is 3 if something is missing that export, verify or inspect need.
    """
    from fggp_deploy.checkpoints.provenance import machine

    from .render import as_json, stdout

    hardware = machine()
    checks = [check() for check in CHECKS]
    if json:
        as_json({"hardware": hardware, "checks": [c.__dict__ for c in checks]})
    else:
        stdout.print(f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['os']}")
        stdout.print(f"vector instructions: {' '.join(hardware['features']) or 'none known'}")
        for c in checks:
            cure = f"; {c.cure}" if c.cure else ""
            stdout.print(f"{c.sign:7}  {c.what}: {c.found}{cure}", markup=False)
    if any(not c.ok and c.needed for c in checks):
        raise typer.Exit(3)


def _package(name: str, *, for_what: str, needed: bool) -> Callable[[], Check]:
    def check() -> Check:
        try:
            version = getattr(importlib.import_module(name), "__version__", "found")
            return Check(name, True, f"{version}, for {for_what}")
        except Exception as e:  # a broken installation can raise anything at import
            return Check(
                name, False, f"cannot be imported ({type(e).__name__}), for {for_what}",
                f"pip install {name}", needed,
            )  # fmt: skip

    return check


def _torchvision() -> Check:
    from fggp_deploy.common.torchvision_import import MATCHING, import_torchvision, was_repaired
    from fggp_deploy.errors import MachineError

    if importlib.util.find_spec("torchvision") is None:
        return Check(
            "torchvision", False, "not installed, for its networks and downloads",
            "pip install torchvision", needed=False,
        )  # fmt: skip
    try:
        version = import_torchvision().__version__
    except MachineError as e:
        return Check("torchvision", False, str(e), needed=False, broken=True)
    if not was_repaired():
        return Check("torchvision", True, f"{version}, for its networks and downloads")
    torch = importlib.import_module("torch").__version__
    return Check(
        "torchvision", False,
        f"{version} was not built for torch {torch}: `import torchvision` fails in your own "
        "scripts; fggp-deploy repairs it for itself and for the files that you give it",
        MATCHING, needed=False, broken=True,
    )  # fmt: skip


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
