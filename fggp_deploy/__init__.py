"""fggp-deploy: prune a trained CNN, export one small sparse ONNX file, and prove that it is good.

Importing this package is cheap and needs no torch; each name is imported when first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# Recent versions of onnxruntime send usage data from their import on, unless this is set. A value
# that the user has set is kept, and child processes inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In a checkout, `cli/` and `exporters/` lie beside this package; installed, they lie inside it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "exporters").is_dir():
    __path__.append(str(_checkout))

_PUBLIC = {
    "MaskSet": "pruning.masks",
    "Cubic": "pruning.schedules",
    "Constant": "pruning.schedules",
    "OneShot": "pruning.schedules",
    "FGGP": "pruning.criteria",
    "Magnitude": "pruning.criteria",
    "Gradual": "pruning.methods.gradual",
    "Pruner": "pruning.pruner",
    "PruneConfig": "training.config",
    "TrainConfig": "training.config",
    "prune": "training.prune",
    "train": "training.train",
    "export_run": "exporters.run",
    "export_model": "exporters.run",
    "FggpError": "errors",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
