"""Methods by name: ours, and those that other installed packages offer.

A package of your own registers one in its pyproject.toml, in the form that BUILT_IN has too:

    [project.entry-points."fggp_deploy.methods"]
    mine = "my_package.mine:METHOD"
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from fggp_deploy.common.plugins import offered, package_of
from fggp_deploy.errors import ConfigError, FggpWarning, UnknownName
from fggp_deploy.pruning.criteria import FGGP
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
    "greg-1": "growing_regularization:GREG_1",
    "greg-2": "growing_regularization:GREG_2",
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
    """Every registered name, ours first."""
    return [*BUILT_IN, *sorted(set(offered()) - set(BUILT_IN))]


def info(name: str) -> MethodInfo:
    """A registered method; raises UnknownName, and ConfigError where another package's is broken.

    A name of ours stays ours; a warning tells whose package wanted it.
    """
    if name in BUILT_IN:
        if name in (others := offered()):
            warnings.warn(
                f"method {name!r} of {package_of(others[name])} is not used: the name is our own",
                FggpWarning,
                stacklevel=2,
            )
        module, _, attribute = BUILT_IN[name].partition(":")
        found: Any = getattr(import_module(f"fggp_deploy.pruning.methods.{module}"), attribute)
        assert isinstance(found, MethodInfo)
        return found
    others = offered()
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
    """A registered method for a loop of your own, as `prune` makes it for its.

    `target`: sparsity at the end; `start`: that of the network, where a schedule leads from there.
    `steps`: optimiser steps of the run, of which an epoch has `steps_per_epoch` (None: all).
    `updates` (50) and `rate` (0.5) are for methods that read them. `batches`: normalised images
    [B, C, H, W] and labels, int64 [B], for methods that look at images or their shape, of which
    they take all. `options`: the method's own.

    Raises UnknownName, and ConfigError where a value does not fit the method.
    """
    found = info(name)
    if steps < 1 and not found.without_training:
        raise ConfigError(f"{name} needs training; give its number of steps, got {steps}")
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
    """The names of the methods that need no training; another package's broken one is none."""
    return [n for n in BUILT_IN if info(n).without_training]


def readers(option: str) -> list[str]:
    """The names of our methods that read this option of a run."""
    return [n for n in BUILT_IN if option in info(n).reads]


def with_targets() -> list[str]:
    """The names of our methods that can stop at several targets in a run."""
    return [n for n in BUILT_IN if info(n).several_targets]


def with_option(name: str) -> list[str]:
    """The names of our methods that have an own option of this name."""
    return [n for n in BUILT_IN if name in info(n).options.rules()]
