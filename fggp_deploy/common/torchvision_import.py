"""Importing a torchvision that was built for another torch.

pip installs CUDA builds of torchvision. If torch is a CPU build, importing one fails
with "operator torchvision::nms does not exist", because the library that defines the operators
cannot be loaded. Models, data sets and transforms need none of those operators: it is enough that
their schemas exist when torchvision registers its meta kernels for them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from fggp_deploy.errors import MachineError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []  # a torch Library unregisters its schemas when it is collected

MATCHING = (
    "install torch and torchvision together, both for the CPU or both for the same CUDA version: "
    "https://pytorch.org/get-started/locally"
)


class _Repair(MetaPathFinder):
    """Defines the missing schemas just before the first `import torchvision`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing: the ordinary finders come next."""
        if fullname == "torchvision" and not _libraries and not _operators_load():
            _define_schemas()
        return None


_REPAIR = _Repair()


def repair_on_import() -> None:
    """Make `import torchvision` work in any code of this process; does not import it."""
    if _REPAIR not in sys.meta_path:
        sys.meta_path.insert(0, _REPAIR)


def import_torchvision() -> ModuleType:
    """Import torchvision, and define the schemas that it lacks.

    Raises MachineError with the cure when it cannot be imported.
    """
    repair_on_import()
    try:
        return importlib.import_module("torchvision")
    except Exception as e:  # a broken install can raise anything at import
        if isinstance(e, ModuleNotFoundError) and e.name == "torchvision":
            raise MachineError("torchvision is missing; pip install torchvision") from e
        raise MachineError(
            f"torchvision cannot be imported ({type(e).__name__}: {e}); {MATCHING}"
        ) from e


def was_repaired() -> bool:
    """True if torchvision was imported and would have failed without the repair."""
    return bool(_libraries)


def _operators_load() -> bool:
    """True if the library of torchvision's operators can be loaded, or there is no torchvision."""
    package = PathFinder.find_spec("torchvision")
    if package is None:
        return True
    library = PathFinder.find_spec("torchvision._C", package.submodule_search_locations)
    if library is None or library.origin is None:
        return False
    import torch

    try:
        torch.ops.load_library(library.origin)
    except OSError:
        return False
    return True


def _define_schemas() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)
