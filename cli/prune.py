"""fggp-deploy prune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fggp_deploy.training.config import PruneConfig as Default

from . import options as o
from .endings import ends_cleanly

if TYPE_CHECKING:
    from fggp_deploy.training.run import RunResult


@ends_cleanly
def prune(
    target: Annotated[
        float, typer.Option(help="Fraction of prunable weights to remove, in (0, 1).")
    ] = Default.target,
    checkpoint: o.Checkpoint = None,
    weights: o.Weights = None,
    model: o.Model = Default.model,
    trust_code: o.TrustCode = False,
    data: o.DataName = Default.data,
    data_dir: o.DataDir = None,
    method: Annotated[str, typer.Option(help="fggp or gmp (magnitude).")] = Default.method,
    epochs: o.Epochs = Default.epochs,
    updates: Annotated[
        int, typer.Option(help="Mask updates, over the first 80% of the run.")
    ] = Default.updates,
    rate: Annotated[
        float,
        typer.Option(help="FGGP: share of alive weights, smallest gradient first, that may go."),
    ] = Default.rate,
    distill: Annotated[
        float, typer.Option(help="Weight of the parent's soft labels in the loss, 0 to 1.")
    ] = Default.distill,
    lr: o.Lr = Default.lr,
    lr_schedule: o.LrSchedule = Default.lr_schedule,
    warmup_epochs: o.Warmup = Default.warmup_epochs,
    weight_decay: o.WeightDecay = Default.weight_decay,
    batch_size: o.BatchSize = Default.batch_size,
    mean: o.Numbers = None,
    std: o.Numbers = None,
    image_size: o.ImageSize = None,
    resize: o.Resize = None,
    augment: o.Augment = Default.augment,
    flip: o.Flip = None,
    stream: o.Stream = None,
    workers: o.Workers = None,
    skip_unreadable: o.SkipUnreadable = False,
    split_seed: o.SplitSeed = 0,
    keep_dense: o.KeepDense = None,
    prune_first: o.PruneFirst = False,
    seed: o.Seed = Default.seed,
    device: o.Device = Default.device,
    precision: o.Precision = Default.precision,
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """Prune a trained network to --target while fine-tuning it.

    Writes a run folder: pruned.safetensors (weights and masks), the parent, the resolved config,
    metrics. A checkpoint that has zeros already keeps them: pruning goes on from there.
    """
    config = Default(
        target=target, checkpoint=checkpoint, weights=weights, model=model, trust_code=trust_code,
        data=data, data_dir=data_dir, method=method, epochs=epochs, updates=updates, rate=rate,
        distill=distill, lr=lr, lr_schedule=lr_schedule, warmup_epochs=warmup_epochs,
        weight_decay=weight_decay, batch_size=batch_size, mean=o.numbers("--mean", mean),
        std=o.numbers("--std", std), keep_dense=tuple(keep_dense or ()), prune_first=prune_first,
        seed=seed, device=device, precision=precision,
        image_size=image_size, resize=resize, augment=augment, flip=flip, stream=stream,
        workers=workers, skip_unreadable=skip_unreadable, split_seed=split_seed,
    )  # fmt: skip
    from fggp_deploy.training.prune import prune as run

    from .progress import watch

    with watch() as observer:
        result = run(config, observer=observer, out=out)
    show(result, json=json)


def show(result: RunResult, *, json: bool) -> None:
    """Print what a run made."""
    from .render import as_json, stdout

    if json:
        return as_json(result)
    parent = result.parent_accuracy
    before = "" if parent is None else f" (parent {parent:.2%})"
    share = result.n_removed / result.n_prunable
    stdout.print(
        f"removed {result.n_removed:,} of {result.n_prunable:,} prunable weights ({share:.2%})\n"
        f"test accuracy {result.test_accuracy:.2%}{before}, n = {result.n_test:,}\n"
        f"{result.checkpoint}, made in {result.seconds:.0f} s\n"
        f"digest of weights and masks {result.digest[:16]}"
    )
    return None
