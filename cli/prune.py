"""fggp-deploy prune."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fggp_deploy.distributed import environment
from fggp_deploy.errors import ConfigError
from fggp_deploy.training.config import PruneConfig

from . import options as o
from .exit_codes import with_exit_codes

if TYPE_CHECKING:
    from fggp_deploy.exporters.latency_target import LatencyCheck, LatencyPlan
    from fggp_deploy.training.result import RunResult, TargetResult


@with_exit_codes
@o.with_options_of(PruneConfig)
def prune(
    given: dict[str, Any],
    *,
    config: o.Config = None,
    set: o.Set = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan and how long it takes; write nothing."),
    ] = False,
    out: o.RunFolder = None,
    json: o.Json = False,
) -> None:
    """Prune a trained network to --target while fine-tuning it.

    Writes a run folder: pruned.safetensors (weights and masks), the dense model, the resolved
    config, metrics. The zeros of a sparse checkpoint stay zero; pruning continues from them.

    Interrupted runs resume: run the same command with the same --out.
    """
    if given.get("target_latency") is not None and "target" in given:
        raise ConfigError("--target-latency replaces --target; give one of them")
    options, planned = _resolved(given, config=config, settings=set or (), out=out)
    if dry_run:
        if environment.world() > 1:
            raise ConfigError("--dry-run is for one process; the plan is the same for several")
        from .plan import show_plan

        return show_plan(options, json=json)
    from fggp_deploy.training.prune import prune as run

    from .progress import watch

    with watch(f"{_beginning(options)}\n{o.which_data(options)}") as observer:
        result = run(options, observer=observer, out=out)
    latency = None
    if options.target_latency is not None and environment.rank() == 0:
        latency = _measured(result, options, planned)
    return show(result, latency, json=json)


def _resolved(
    given: dict[str, Any], *, config: Path | None, settings: Sequence[str], out: Path | None
) -> tuple[PruneConfig, LatencyPlan | None]:
    """The configuration of the run, and its plan if it is a new run with a target latency."""
    from fggp_deploy.training.recipes import resolve
    from fggp_deploy.training.resume import earlier_run

    options = resolve(
        PruneConfig,
        recipe=given.pop("recipe", None),
        file=config,
        settings=settings,
        explicit=given,
        out=out,
    )
    if "target_latency" in given and earlier_run(out) is None:
        options = replace(options, densities={})  # those of a --config belong to another target
    if options.target_latency is not None and not options.densities:
        return _for_latency(options)
    return options, None


def _measured(result: RunResult, options: PruneConfig, plan: LatencyPlan | None) -> LatencyCheck:
    """Export and time the result, and record it beside the run."""
    from .progress import working

    with working("timing the result"):
        from fggp_deploy.common.files import write_atomic
        from fggp_deploy.exporters.latency_target import check_latency

        from .render import json_text

        assert options.target_latency is not None  # the caller has checked it
        latency = check_latency(
            result.checkpoint,
            options.target_latency,
            plan=plan,
            trust_code=options.trust_code,
        )
        record = result.folder / "latency.json"
        if plan is not None or not record.exists():  # a resumed run keeps its plan
            content = {"plan": plan and asdict(plan), "result": asdict(latency)}
            write_atomic(record, json_text(content) + "\n")
    return latency


def _beginning(options: PruneConfig) -> str:
    """The first line of a new run: its start, and its teacher."""
    has_dense = options.checkpoint or options.weights or options.model == PruneConfig.model
    weights = "random weights" if options.from_random else "trained weights"
    line = f"{options.method} to {max(options.targets):.2%}, starting from {weights}"
    if not has_dense:
        return line
    if options.distill and options.epochs:
        return f"{line}, distilled from the dense model (--distill {options.distill:g})"
    return f"{line}, compared with the dense model" if options.from_random else line


def _for_latency(options: PruneConfig) -> tuple[PruneConfig, LatencyPlan]:
    """The run, with layer densities that meet its target latency."""
    if environment.world() > 1:
        raise ConfigError(
            "--target-latency measures in one process; run it with --dry-run first, and put the "
            "densities that it prints into a --config file"
        )
    from .progress import stderr, working

    with working("planning") as progress:
        from fggp_deploy.exporters.latency_target import plan_latency

        plan = plan_latency(options, progress=progress)
    stderr.print(
        f"removes {plan.sparsity:.2%} of the weights; with random masks: {plan.planned_ms:.3g} ms "
        f"per image, target {plan.target_ms:g}, dense {plan.parent_ms:.3g}"
    )
    for name, density in plan.densities.items():
        stderr.print(f"  {name} keeps {density:.1%}", markup=False)
    return plan.config(options), plan


def show(result: RunResult, latency: LatencyCheck | None = None, *, json: bool) -> None:
    """Print the result of a run, and its latency if that was a target."""
    from .render import as_json, stdout

    if json:
        return as_json(asdict(result) | ({"latency": asdict(latency)} if latency else {}))
    dense = result.parent_accuracy
    before = "" if dense is None else f" (dense model {dense:.2%})"
    blocks = f", in blocks of {result.pattern}" if result.pattern else ""
    for r in result.results:
        stdout.print(
            f"removed {r.n_removed:,} of {r.n_prunable:,} prunable weights "
            f"({r.n_removed / r.n_prunable:.2%}{blocks})\n"
            f"test accuracy {r.test_accuracy:.2%}{before}, n = {result.n_test:,}\n"
            f"{_of_ensemble(r)}"
            f"{r.checkpoint}, digest of weights and masks {r.digest[:16]}"
        )
    stdout.print(f"finished in {result.seconds:.0f} s")
    if latency is not None:
        missed = "faster than asked" if latency.ms < latency.target_ms else "missed"
        outcome = "met" if latency.met else f"{missed}: {latency.why}"
        stdout.print(
            f"{latency.file}: {latency.ms:.3g} ms per image on one thread, target "
            f"{latency.target_ms:g} {outcome}"
        )
    return None


def _of_ensemble(r: TargetResult) -> str:
    if r.ensemble_test_accuracy is None:
        return ""
    return f"test accuracy {r.ensemble_test_accuracy:.2%} of the ensemble, which is not saved\n"
