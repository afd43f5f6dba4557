"""Methods by name: the built-in ones, and those of other installed packages.

Your own package registers a method in its pyproject.toml, in the same form as BUILT_IN:

    [project.entry-points."fggp_deploy.methods"]
    mine = "my_package.mine:METHOD"
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from fggp_deploy.common.plugins import method_entry_points, package_of
from fggp_deploy.errors import ConfigError, FggpWarning, UnknownName
from fggp_deploy.pruning.methods.fggp import FGGP
from fggp_deploy.pruning.methods.method import Batch, Method, MethodInfo, Task
from fggp_deploy.pruning.methods.options import Options
from fggp_deploy.pruning.schedules import Constant, Cubic

BUILT_IN = {
    "fggp": "fggp:METHOD",
    "gmp": "gmp:METHOD",
    "magnitude-first": "ablations:MAGNITUDE_FIRST",
    "magnitude-first-annealed": "ablations:MAGNITUDE_FIRST_ANNEALED",
    "gradient-first-annealed": "ablations:GRADIENT_FIRST_ANNEALED",
    "saliency": "ablations:SALIENCY",
    "rank-sum": "ablations:RANK_SUM",
    "rank-product": "ablations:RANK_PRODUCT",
    "mean-gradient": "ablations:MEAN_GRADIENT",
    "granet": "granet:METHOD",
    "rigl": "rigl:RIGL",
    "set": "rigl:SET",
    "greg-1": "greg:GREG_1",
    "greg-2": "greg:GREG_2",
    "lottery": "lottery:METHOD",
    "acdc": "acdc:METHOD",
    "feather": "feather:METHOD",
    "random": "random_masks:METHOD",
    "snip": "snip:METHOD",
    "grasp": "grasp:METHOD",
    "synflow": "synflow:METHOD",
    "dpp": "dpp:METHOD",
    "unification": "unification:METHOD",
    "magnitude": "magnitude:METHOD",
    "wanda": "wanda:METHOD",
    "second-order": "second_order:METHOD",
}


def names() -> list[str]:
    """Every registered name, built-in methods first."""
    return [*BUILT_IN, *sorted(set(method_entry_points()) - set(BUILT_IN))]


def info(name: str) -> MethodInfo:
    """A registered method.

    If another package registers a built-in name, the built-in method is used, with a warning.
    Raises UnknownName, and ConfigError if another package's method is broken.
    """
    if name in BUILT_IN:
        if name in (others := method_entry_points()):
            warnings.warn(
                f"method {name!r} of {package_of(others[name])} is ignored, because a built-in "
                "method has that name",
                FggpWarning,
                stacklevel=2,
            )
        module, _, attribute = BUILT_IN[name].partition(":")
        found: Any = getattr(import_module(f"fggp_deploy.pruning.methods.{module}"), attribute)
        assert isinstance(found, MethodInfo)
        return found
    others = method_entry_points()
    if name not in others:
        raise UnknownName("method", name, names())
    point = others[name]
    try:
        found = point.load()
    except Exception as e:  # that package's code may raise anything
        raise ConfigError(
            f"method {name!r} of {package_of(point)} cannot be loaded ({type(e).__name__}: {e})"
        ) from e
    if not isinstance(found, MethodInfo):
        raise ConfigError(
            f"method {name!r} of {package_of(point)} is a {type(found).__name__}; {point.value} "
            f"must be a fggp_deploy.pruning.methods.MethodInfo"
        )
    return found


def make(
    name: str,
    target: float,
    *,
    steps: int = 0,
    steps_per_epoch: int | None = None,
    updates: int | None = None,
    rate: float | None = None,
    start: float = 0.0,
    seed: int = 0,
    batches: Sequence[Batch] = (),
    **options: Any,
) -> Method:
    """A registered method for your own training loop, as `prune` creates it.

    `target`: sparsity at the end; `start`: sparsity of the network, from which a schedule starts.
    `steps`: optimizer steps of the run; `steps_per_epoch`: those of one epoch (None: all).
    `updates` (50) and `rate` (0.5) are for methods that read them. `batches`: normalized images
    [B, C, H, W] and labels, int64 [B], all of which go to methods that use images or their shape.
    `options`: the method's own options.

    Raises UnknownName, and ConfigError if a value does not fit the method.
    """
    found = info(name)
    if steps < 1 and not found.without_training:
        raise ConfigError(f"{name} needs training: `steps` must be at least 1, got {steps}")
    given = {k: v for k, v in (("updates", updates), ("rate", rate)) if v is not None}
    if unread := given.keys() - set(found.reads):
        raise ConfigError(f"{name} does not read {min(unread)}; leave it out")
    run: dict[str, Any] = {"updates": Cubic.updates, "rate": FGGP.rate} | given
    task = Task(
        target=target,
        schedule=Cubic(target, steps, start, run["updates"]) if steps else Constant(target),
        n_steps=steps,
        steps_per_epoch=steps if steps_per_epoch is None else steps_per_epoch,
        seed=seed,
        input_shape=tuple(batches[0][0].shape[1:]) if batches else (),
        batches=lambda _: batches,
        **run,
    )
    return found.make(read_options(name, options), task)


def read_options(name: str, values: Mapping[str, Any]) -> Options:
    """A method's own options from plain values.

    Raises ConfigError, which also names the methods that do have an unknown option.
    """
    options = info(name).options
    for key, value in values.items():
        own = key.replace("-", "_")
        if own not in options.rules() and (others := ", ".join(with_option(own))):
            raise options.unknown(name, key, value, hint=f"; it is an option of {others}")
    return options.read(name, values)


def without_training() -> list[str]:
    """The names of the built-in methods that need no training."""
    return [n for n in BUILT_IN if info(n).without_training]


def readers(option: str) -> list[str]:
    """The names of the built-in methods that read this option of a run."""
    return [n for n in BUILT_IN if option in info(n).reads]


def with_targets() -> list[str]:
    """The names of the built-in methods that can produce several targets in one run."""
    return [n for n in BUILT_IN if info(n).several_targets]


def with_option(name: str) -> list[str]:
    """The names of the built-in methods that have an option of their own with this name."""
    return [n for n in BUILT_IN if name in info(n).options.rules()]
