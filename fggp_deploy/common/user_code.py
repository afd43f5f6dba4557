"""Running a function of the user's own Python file, if the user trusts it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fggp_deploy.common.torchvision_import import repair_on_import
from fggp_deploy.errors import ConfigError, shortened


def raised(e: Exception) -> str:
    """Describe an exception of the user's own code, and say how to see its traceback."""
    return f"{type(e).__name__}: {shortened(e, 200)}; FGGP_DEBUG=1 shows the traceback"


def load_function(spec: str, *, trust_code: bool) -> Callable[..., Any]:
    """The function that `path/module.py:function` names.

    Importing the file runs it, so this needs `trust_code`. Raises ConfigError without it, for a
    file that is missing or fails, and for a function that is not there.
    """
    path, _, name = spec.rpartition(":")
    if not trust_code:
        raise ConfigError(f"{spec} would run code from {path}; give --trust-code if you trust it")
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{path} does not exist or is not a file; give FILE.py:FUNCTION")
    repair_on_import()  # the file, or its function, may import torchvision
    module_spec = importlib.util.spec_from_file_location(file.stem, file)
    assert module_spec is not None  # the suffix is .py
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules.setdefault(file.stem, module)  # worker processes may need to name its classes
    if (folder := str(file.parent.absolute())) not in sys.path:
        sys.path.append(folder)  # it may import files that lie beside it
    try:
        module_spec.loader.exec_module(module)
    except Exception as e:  # the user's code may raise anything
        raise ConfigError(f"{path} cannot be imported: {raised(e)}") from e
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{path} has no function {name!r}")
    return function
