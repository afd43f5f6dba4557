"""fggp-deploy train."""

from __future__ import annotations

from typing import Annotated

import typer

from fggp_deploy.training.config import TrainConfig as Default

from . import options as o
from .endings import ends_cleanly


@ends_cleanly
def train(
    model: o.Model = Default.model,
    checkpoint: o.Checkpoint = None,
    weights: o.Weights = None,
    new_head: Annotated[
        bool,
        typer.Option(
            "--new-head", help="Start the last layer afresh where the classes are other ones."
        ),
    ] = False,
    trust_code: o.TrustCode = False,
    data: o.DataName = Default.data,
    data_dir: o.DataDir = None,
    sparsity: Annotated[
        float, typer.Option(help="Train under a fixed random mask of this sparsity; 0 is dense.")
    ] = Default.sparsity,
    allocation: Annotated[
        str, typer.Option(help="Who gets the random mask's weights: erk or uniform.")
    ] = Default.allocation,
    epochs: o.Epochs = Default.epochs,
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
    """Train a network from scratch, dense or 50% sparse, or go on from weights.

    Writes a run folder with dense.safetensors; give that to prune --checkpoint. Published weights
    for other classes: --model torchvision:resnet18 --weights DEFAULT --new-head --lr 0.01.
    """
    config = Default(
        model=model, checkpoint=checkpoint, weights=weights, new_head=new_head,
        trust_code=trust_code, data=data, data_dir=data_dir, sparsity=sparsity,
        allocation=allocation, epochs=epochs, lr=lr, lr_schedule=lr_schedule,
        warmup_epochs=warmup_epochs, weight_decay=weight_decay, batch_size=batch_size,
        mean=o.numbers("--mean", mean), std=o.numbers("--std", std),
        keep_dense=tuple(keep_dense or ()), prune_first=prune_first, seed=seed, device=device,
        precision=precision,
        image_size=image_size, resize=resize, augment=augment, flip=flip, stream=stream,
        workers=workers, skip_unreadable=skip_unreadable, split_seed=split_seed,
    )  # fmt: skip
    from fggp_deploy.training.train import train as run

    from .progress import watch
    from .prune import show

    with watch() as observer:
        result = run(config, observer=observer, out=out)
    show(result, json=json)
