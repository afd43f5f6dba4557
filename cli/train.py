"""fggp-deploy train."""

from __future__ import annotations

from typing import Annotated

import typer

from fggp_deploy.training.config import TrainConfig as Default
from fggp_deploy.training.rules import RULES

from . import options as o
from .endings import ends_cleanly


@ends_cleanly
def train(
    ctx: typer.Context,
    model: o.Model = Default.model,
    checkpoint: o.Checkpoint = None,
    weights: o.Weights = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help=RULES["new_head"].help)
    ] = Default.new_head,
    trust_code: o.TrustCode = False,
    data: o.DataName = Default.data,
    data_dir: o.DataDir = None,
    sparsity: Annotated[float, typer.Option(help=RULES["sparsity"].help)] = Default.sparsity,
    allocation: Annotated[str, typer.Option(help=RULES["allocation"].help)] = Default.allocation,
    epochs: o.Epochs = Default.epochs,
    lr: o.Lr = Default.lr,
    lr_schedule: o.LrSchedule = Default.lr_schedule,
    warmup_epochs: o.Warmup = Default.warmup_epochs,
    weight_decay: o.WeightDecay = Default.weight_decay,
    batch_size: o.BatchSize = Default.batch_size,
    label_smoothing: o.LabelSmoothing = Default.label_smoothing,
    ema: o.Ema = Default.ema,
    average_epochs: o.AverageEpochs = Default.average_epochs,
    ensemble: o.Ensemble = Default.ensemble,
    bn_images: o.BnImages = Default.bn_images,
    mean: o.Mean = None,
    std: o.Std = None,
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
    compile: o.Compile = Default.compile,
    config: o.Config = None,
    set: o.Set = None,
    save_every: o.SaveEvery = Default.save_every,
    out: o.RunFolder = None,
    json: o.Json = False,
) -> None:
    """Train a network from scratch, dense or 50% sparse, or go on from weights.

    Writes a run folder with dense.safetensors; give that to prune --checkpoint. Published weights
    for other classes: --model torchvision:resnet18 --weights DEFAULT --new-head --lr 0.01.
    A run that was killed or stopped goes on when its folder is named again: --out RUN.
    """
    from fggp_deploy.training.recipes import resolve
    from fggp_deploy.training.train import train as run

    from .progress import watch
    from .prune import show

    options = resolve(Default, file=config, settings=set or (), explicit=o.given(ctx), out=out)
    with watch(o.which_data(options)) as observer:
        result = run(options, observer=observer, out=out)
    show(result, json=json)
