"""fggp-deploy demo."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fggp_deploy.training.config import DEFAULT_TARGET, PruneConfig

from . import options as o
from .exit_codes import with_exit_codes

if TYPE_CHECKING:
    from fggp_deploy.training.result import RunResult
    from fggp_deploy.verification.report import Report


@with_exit_codes
def demo(
    target: Annotated[
        float, typer.Option(help="Fraction of prunable weights to remove, in (0, 1).")
    ] = DEFAULT_TARGET,
    epochs: o.Epochs = PruneConfig.epochs,
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """Prune, export and verify the embedded network on the embedded data.

    This is the same as the three commands in a row. It takes a minute or two on two idle cores.
    """
    from fggp_deploy.training.prune import prune

    from .progress import stderr, watch
    from .render import as_json, stdout
    from .verify import show

    config = PruneConfig(target=target, epochs=epochs)
    began = time.monotonic()
    stderr.print(f"1/3  prune to {target:.0%} while fine-tuning")
    with watch() as observer:
        run = prune(config, observer=observer, out=out)
    report, written = _exported_and_verified(run, config)
    if json:
        as_json(report.to_dict())
    else:
        show(report, written)
        stdout.print(f"{time.monotonic() - began:.0f} s; everything is in {run.folder}")
    if not report.passed:
        raise typer.Exit(1)


def _exported_and_verified(run: RunResult, config: PruneConfig) -> tuple[Report, Path]:
    """The report on the run's network as an ONNX file, and the page that shows it."""
    from fggp_deploy import data
    from fggp_deploy.report.files import write_report
    from fggp_deploy.verification.verify import verify

    from .networks import OriginalNetwork
    from .progress import stderr, working

    stderr.print("2/3  export to one ONNX file")
    with working("exporting"):
        from fggp_deploy.exporters.run import export_run

        exported = export_run(run.checkpoint)
    stderr.print("3/3  verify under ONNX Runtime against the dense model")
    with working("verifying") as progress:
        report = verify(
            exported.path, data=data.load(config.data),
            original=OriginalNetwork(exported.path), progress=progress,
        )  # fmt: skip
    return report, write_report(report, run.folder)
