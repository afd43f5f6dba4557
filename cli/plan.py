"""What `prune --dry-run` prints."""

from __future__ import annotations

from dataclasses import asdict

from fggp_deploy.training.config import PruneConfig


def show_plan(config: PruneConfig, *, json: bool) -> None:
    """Make the plan of a run and print it."""
    from fggp_deploy.training.plan import plan

    from .progress import working
    from .render import as_json, stdout, table

    with working("timing a few steps") as progress:
        made = plan(config, progress=progress)
    if json:
        return as_json(asdict(made) | {"config": config.to_dict()})
    table(
        f"{len(made.updates)} mask updates in {made.n_steps} steps "
        f"({made.steps_per_epoch} an epoch)",
        ("step", "sparsity", "alive before", "removed", "of the alive"),
        [
            (str(u.step), f"{u.sparsity:.2%}", f"{u.n_alive:,}", f"{u.n_drop:,}", f"{u.share:.1%}")
            for u in made.updates
        ],
    )
    if config.pattern is not None:
        stdout.print(f"whole blocks of {config.pattern} inputs go; shorter ones may shift counts")
    if made.largest is not None:
        stdout.print(
            f"largest drop: {made.largest.share:.1%} of the alive weights, at step "
            f"{made.largest.step}"
        )
    if made.remark is not None:
        stdout.print(f"warning: {made.remark}", markup=False)
    if made.parent_val_accuracy is not None:
        stdout.print(f"the parent: val {made.parent_val_accuracy:.2%}")
    for target, step in zip(made.targets, made.target_steps, strict=True):
        stdout.print(f"target {target:g} is kept at step {step}")
    stdout.print(
        f"about {made.seconds / 60:.1f} minutes of training here ({made.images_per_second:.0f} "
        f"images/s, {made.update_seconds * 1e3:.0f} ms an update), validation not counted"
    )
    return None
