"""Importing torchvision beside a CPU-only torch.

The wheel that an index serves for torchvision is a CUDA build; beside a CPU-only torch its import
fails with «operator torchvision::nms does not exist», because the library that defines the
operators cannot be loaded. Models, data sets and transforms need none of those operators; it is
enough that their schemas exist when torchvision registers its meta kernels for them.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from fggp_deploy.errors import MachineError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []  # a torch Library unregisters its schemas when it is collected


def import_torchvision() -> ModuleType:
    """Import torchvision, defining the missing schemas when that is what it lacks.

    Raises MachineError with the cure when it cannot be imported.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as e:
        raise MachineError("torchvision is missing; pip install torchvision") from e
    except RuntimeError as e:
        if "torchvision::nms" not in str(e):
            raise MachineError(f"torchvision cannot be imported ({e}); reinstall it") from e
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as e:
        raise MachineError(
            f"torchvision does not fit this torch {torch.__version__} ({e}); install matching ones"
        ) from e
