"""fggp-deploy prune."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from fggp_deploy.distributed import environment
from fggp_deploy.errors import ConfigError
from fggp_deploy.training.config import DEFAULT_TARGET
from fggp_deploy.training.config import PruneConfig as Default
from fggp_deploy.training.rules import RULES

from . import options as o
from .endings import ends_cleanly

if TYPE_CHECKING:
    from fggp_deploy.exporters.latency_target import Latency, LatencyPlan
    from fggp_deploy.training.result import RunResult, TargetResult

_TARGET = [str(DEFAULT_TARGET)]


@ends_cleanly
def prune(
    ctx: typer.Context,
    target: Annotated[
        list[str], typer.Option(metavar=o.NUMBERS, help=RULES["target"].help)
    ] = _TARGET,
    checkpoint: o.Checkpoint = None,
    weights: o.Weights = None,
    model: o.Model = Default.model,
    trust_code: o.TrustCode = False,
    data: o.DataName = Default.data,
    data_dir: o.DataDir = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="fast (15 epochs from a trained network), best (accuracy before time) or paper "
            "(160 epochs as published). Other options go on top of it."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=RULES["method"].help)] = Default.method,
    method_set: o.MethodSet = None,
    start: Annotated[str | None, typer.Option(help=RULES["start"].help)] = None,
    epochs: o.Epochs = Default.epochs,
    updates: Annotated[int, typer.Option(help=RULES["updates"].help)] = Default.updates,
    rate: Annotated[float, typer.Option(help=RULES["rate"].help)] = Default.rate,
    pattern: Annotated[str | None, typer.Option(help=RULES["pattern"].help)] = None,
    min_layer_density: Annotated[
        float, typer.Option(help=RULES["min_layer_density"].help)
    ] = Default.min_layer_density,
    int8_aware: Annotated[bool, typer.Option("--int8-aware", help=RULES["int8_aware"].help)] = (
        Default.int8_aware
    ),
    distill: Annotated[float, typer.Option(help=RULES["distill"].help)] = Default.distill,
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
    target_latency: Annotated[
        float | None, typer.Option(metavar="MS", help=RULES["target_latency"].help)
    ] = None,
    config: o.Config = None,
    set: o.Set = None,
    save_every: o.SaveEvery = Default.save_every,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the time it takes; write nothing.")
    ] = False,
    out: o.RunFolder = None,
    json: o.Json = False,
) -> None:
    """Prune a trained network to --target while fine-tuning it.

    Writes a run folder: pruned.safetensors (weights and masks), the parent, the resolved config,
    metrics. A checkpoint that has zeros already keeps them: pruning goes on from there.

    A run that was killed or stopped goes on when its folder is named again: --out RUN.
    """
    from fggp_deploy.training.recipes import resolve
    from fggp_deploy.training.resume import earlier_run

    given = o.given(ctx)
    if target_latency is not None and "target" in given:
        raise ConfigError("--target-latency takes the place of --target; leave one out")
    options = resolve(
        Default, recipe=recipe, file=config, settings=set or (), explicit=given, out=out
    )
    planned = None
    if target_latency is not None and earlier_run(out) is None:
        options = replace(options, densities={})  # those of a --config are another target's
    if options.target_latency is not None and not options.densities:
        options, planned = _for_latency(options)
    if dry_run:
        if environment.world() > 1:
            raise ConfigError("--dry-run is for one process; the plan is the same for several")
        from .plan import show_plan

        return show_plan(options, json=json)
    from fggp_deploy.training.prune import prune as run

    from .progress import watch, working
    from .render import json_text

    with watch(f"{_beginning(options)}\n{o.which_data(options)}") as observer:
        result = run(options, observer=observer, out=out)
    if options.target_latency is None or environment.rank() > 0:
        return show(result, json=json)
    with working("timing the result"):
        from fggp_deploy.common.files import write_atomic
        from fggp_deploy.exporters.latency_target import check_latency

        latency = check_latency(
            result.checkpoint, options.target_latency, plan=planned, trust_code=trust_code
        )
        record = result.folder / "latency.json"
        if planned is not None or not record.exists():  # a run that went on keeps its plan
            told = {"plan": planned and asdict(planned), "result": asdict(latency)}
            write_atomic(record, json_text(told) + "\n")
    return show(result, latency, json=json)


def _beginning(options: Default) -> str:
    """What a new run begins with, and who teaches it."""
    has_parent = options.checkpoint or options.weights or options.model == Default.model
    weights = "random weights" if options.from_random else "trained weights"
    told = f"{options.method} to {max(options.targets):.2%}, beginning with {weights}"
    if not has_parent:
        return told
    if options.distill and options.epochs:
        return f"{told}, taught by the parent (--distill {options.distill:g})"
    return f"{told}, compared with the parent" if options.from_random else told


def _for_latency(options: Default) -> tuple[Default, LatencyPlan]:
    """The same run with the densities that its latency needs."""
    if environment.world() > 1:
        raise ConfigError(
            "--target-latency measures in one process; run it with --dry-run first, and give the "
            "densities that it prints in a --config"
        )
    from .progress import stderr, working

    with working("planning") as progress:
        from fggp_deploy.exporters.latency_target import plan_latency

        plan = plan_latency(options, progress=progress)
    stderr.print(
        f"{plan.sparsity:.2%} of the weights go; with random masks {plan.planned_ms:.3g} ms an "
        f"image, target {plan.target_ms:g}, dense {plan.parent_ms:.3g}"
    )
    for name, density in plan.densities.items():
        stderr.print(f"  {name} keeps {density:.1%}", markup=False)
    return plan.config(options), plan


def show(result: RunResult, latency: Latency | None = None, *, json: bool) -> None:
    """Print what a run made, and how fast it is where that was asked for."""
    from .render import as_json, stdout

    if json:
        return as_json(asdict(result) | ({"latency": asdict(latency)} if latency else {}))
    parent = result.parent_accuracy
    before = "" if parent is None else f" (parent {parent:.2%})"
    blocks = f", in blocks of {result.pattern}" if result.pattern else ""
    for r in result.results:
        stdout.print(
            f"removed {r.n_removed:,} of {r.n_prunable:,} prunable weights "
            f"({r.n_removed / r.n_prunable:.2%}{blocks})\n"
            f"test accuracy {r.test_accuracy:.2%}{before}, n = {result.n_test:,}\n"
            f"{_of_ensemble(r)}"
            f"{r.checkpoint}, digest of weights and masks {r.digest[:16]}"
        )
    stdout.print(f"made in {result.seconds:.0f} s")
    if latency is not None:
        off = "faster than asked" if latency.ms < latency.target_ms else "missed"
        how = "met" if latency.met else f"{off}: {latency.why}"
        stdout.print(
            f"{latency.file}: {latency.ms:.3g} ms an image on one thread, target "
            f"{latency.target_ms:g} {how}"
        )
    return None


def _of_ensemble(r: TargetResult) -> str:
    if r.ensemble_test_accuracy is None:
        return ""
    return f"test accuracy {r.ensemble_test_accuracy:.2%} of the ensemble, which is not kept\n"
