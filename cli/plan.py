"""Print the plan of `prune --dry-run`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from fggp_deploy.training.config import PruneConfig

if TYPE_CHECKING:
    from fggp_deploy.training.plan import PruningPlan, Update


def show_plan(config: PruneConfig, *, json: bool) -> None:
    """Make the plan of a run and print it."""
    from fggp_deploy.training.plan import plan

    from .progress import working
    from .render import as_json

    with working("timing a few steps") as progress:
        made = plan(config, progress=progress)
    if json:
        return as_json(asdict(made) | {"config": config.to_dict()})
    _show_updates(made, config)
    return _show_run(made)


def _show_updates(made: PruningPlan, config: PruneConfig) -> None:
    """Print every mask update, and the largest."""
    from .render import stdout, table

    if n := len(made.updates):
        table(
            f"{n} mask update{'s' * (n > 1)} in {made.n_steps} steps "
            f"({made.steps_per_epoch} per epoch)",
            ("step", "sparsity", "alive before", "removed", "of the alive"),
            [_row(update) for update in made.updates],
        )
        if config.pattern is not None:
            stdout.print(
                f"removes whole blocks of {config.pattern} inputs; a layer with shorter blocks "
                "may shift counts"
            )
    else:
        stdout.print(_without_updates(made, config.method))
    if made.largest is not None:
        stdout.print(
            f"largest drop: {made.largest.share:.1%} of the alive weights, at step "
            f"{made.largest.step}"
        )
    if made.remark is not None:
        stdout.print(f"warning: {made.remark}", markup=False)


def _show_run(made: PruningPlan) -> None:
    """Print the accuracy at the start, the steps of the targets, and the time."""
    from .progress import duration
    from .render import stdout

    if made.parent_val_accuracy is not None:
        stdout.print(f"dense model: val {made.parent_val_accuracy:.2%}")
    if not made.n_steps:
        return
    for target, step in zip(made.targets, made.target_steps, strict=True):
        stdout.print(f"keeps the network of target {target:g} at step {step}")
    each = f", {made.update_seconds * 1e3:.0f} ms per update" if made.updates else ""
    stdout.print(
        f"about {duration(made.seconds)} of training on this machine ({made.images_per_second:.0f} "
        f"images/s{each}), validation not counted"
    )


def _row(u: Update) -> tuple[str, ...]:
    return str(u.step), f"{u.sparsity:.2%}", f"{u.n_alive:,}", f"{u.n_drop:,}", f"{u.share:.1%}"


def _without_updates(made: PruningPlan, method: str) -> str:
    """The line for a method without a schedule of mask updates."""
    if not made.n_steps:
        return f"{method} removes {made.start_sparsity:.2%} at once, without training (--epochs 0)"
    steps = f"{made.n_steps} steps ({made.steps_per_epoch} per epoch)"
    if made.start_sparsity >= made.targets[-1] - 1e-6:
        return f"{method} starts with {made.start_sparsity:.2%} removed and keeps that for {steps}"
    return (
        f"{method} follows no schedule of mask updates: its own rule leads from "
        f"{made.start_sparsity:.2%} to {made.targets[-1]:.2%} in {steps}"
    )
