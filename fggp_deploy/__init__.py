"""fggp-deploy: prune a trained network, export one small sparse ONNX file, and verify it.

Importing this package is cheap and needs no torch: each public name is imported when it is first
used. docs/api.md shows them at work.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# Recent versions of onnxruntime send usage data as soon as they are imported, unless this variable
# is set. A value that the user has set is kept, and child processes inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC = {
    "prune": "training.prune",
    "train": "training.train",
    "PruneConfig": "training.config",
    "TrainConfig": "training.config",
    "Pruner": "pruning.pruner",
    "FGGP": "pruning.methods.fggp",
    "Magnitude": "pruning.criteria",
    "Cubic": "pruning.schedules",
    "Constant": "pruning.schedules",
    "OneShot": "pruning.schedules",
    "Gradual": "pruning.methods.gradual",
    "MaskSet": "pruning.masks",
    "ExportOptions": "exporters.options",
    "export_run": "exporters.run",
    "export_model": "exporters.own_network",
    "verify": "verification.verify",
    "VerifyOptions": "verification.options",
    "Gates": "verification.gates",
    "write_report": "report.files",
    "session": "runtime",
    "Preprocessing": "data",
    "Checkpoint": "checkpoints.checkpoint",
    "SparseModel": "format.model",
    "FggpError": "errors",
    "UserError": "errors",
    "MachineError": "errors",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]


class _CheckoutFinder:
    """Finds `cli` and `exporters` beside this package in a checkout; a wheel has them inside it."""

    _FOLDER = Path(__file__).resolve().parent.parent
    _PACKAGES = (f"{__name__}.cli", f"{__name__}.exporters")

    @classmethod
    def find_spec(cls, name: str, *_: object) -> ModuleSpec | None:
        """The spec of one of the two packages; None for any other name."""
        init = cls._FOLDER / name.rpartition(".")[2] / "__init__.py"
        if name not in cls._PACKAGES or not init.is_file():
            return None
        return spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])


# An editable install may add the checkout's own folder, and with it tests and scripts.
__path__[:] = [p for p in __path__ if Path(p).resolve() != _CheckoutFinder._FOLDER]
sys.meta_path.append(_CheckoutFinder)
