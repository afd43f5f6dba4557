"""fggp-deploy verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .exit_codes import with_exit_codes
from .groups import with_groups
from .verify_options import DataOptions, GateOptions, MeasurementOptions

if TYPE_CHECKING:
    from fggp_deploy.verification.report import Report
    from fggp_deploy.verification.verdict import Verdict


Reference = Annotated[
    Path | None,
    typer.Option(help="The dense model's ONNX. Default: reference.onnx beside the model."),
]
Trusted = Annotated[
    Path | None,
    typer.Option(
        help="A good ONNX file, to find the layer that differs if the self-test fails. "
        "Default: a new export of the checkpoint beside the model (needs torch)."
    ),
]
Check = Annotated[
    Path | None,
    typer.Option(help="A report.json, or its folder; check only whether it describes this model."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder of report.html, report.json and report.md; NAME.report.html and so on "
        "for a file that is not its model.onnx. Default: the model's folder.",
    ),
]


@with_exit_codes
@with_groups
def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="The .onnx file or .csr folder. Default: the newest in runs/."),
    ] = None,
    *,
    reference: Reference = None,
    images: DataOptions,
    limits: GateOptions,
    measurement: MeasurementOptions,
    trusted: Trusted = None,
    check: Check = None,
    out: Out = None,
    json: o.Json = False,
) -> None:
    """Check a deployable file against its dense model: logits, accuracy, size, latency, memory.

    Needs no torch. The exit code is 1 if the self-test, a parity check, the certificate or a gate
    fails. The results are in report.html, for people, and in report.json, for machines.
    """
    from fggp_deploy.checkpoints.run_folder import packed
    from fggp_deploy.report.files import write_report

    from .render import as_json

    path = packed(model)
    if check is not None:
        recheck(path, check, threads=(measurement.counts() or (1,))[0], json=json)
        return
    report = _measured(path, reference, images, limits, measurement, trusted)
    written = write_report(report, out or path.parent)
    if json:
        as_json(report.to_dict())
    else:
        show(report, written)
    if not report.passed:
        raise typer.Exit(1)


def _measured(
    model: Path,
    reference: Path | None,
    images: DataOptions,
    limits: GateOptions,
    measurement: MeasurementOptions,
    trusted: Path | None,
) -> Report:
    """Verify a file, with a progress bar."""
    from fggp_deploy.verification.verify import verify as run

    from .networks import OriginalNetwork
    from .progress import working

    gates, options = limits.gates(), measurement.options()
    original = OriginalNetwork(
        model, trusted=trusted, network=images.network, trust_code=images.trust_code
    )
    with working("verifying") as progress:
        return run(
            model,
            reference=reference,
            data=images.load(model, training_images=measurement.int8 is True, progress=progress),
            gates=gates,
            options=options,
            original=original,
            progress=progress,
        )


def show(report: Report, written: Path) -> None:
    """Print the report's figures as one table, then the notes and verdicts."""
    from fggp_deploy.report.sections import glance
    from fggp_deploy.report.words import removed

    from .render import stdout, table

    before = report.sparsity_before_compaction
    how_sparse = removed(report.sparsity, before, "all conv and linear weights")
    table(
        f"{report.model.name}: {how_sparse}",
        ("", "dense model", "this file", "difference"),
        [(g.what, g.reference, g.model, g.difference) for g in glance(report)],
    )
    for note in report.notes:
        stdout.print(f"note: {note}", markup=False)
    if report.mismatch is not None:
        stdout.print(f"{report.mismatch}.", markup=False)
    show_verdicts(report.verdicts)
    stdout.print(f"{'PASSED' if report.passed else 'FAILED'}; {written}")


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print one line per verdict."""
    from fggp_deploy.report.words import verdict

    from .render import stdout

    for v in verdicts:
        stdout.print(f"{'pass' if v.passed else 'FAIL'}  {verdict(v)}", markup=False)


def recheck(model: Path, report: Path, *, threads: int, json: bool) -> None:
    """Check a delivered file against its report; the exit code is 1 if it is a different file."""
    from fggp_deploy.verification.recheck import recheck as run

    from .render import as_json, stdout

    verdicts = run(model, report, threads=threads)
    passed = all(v.passed for v in verdicts)
    if json:
        as_json({"passed": passed, "verdicts": [asdict(v) for v in verdicts]})
    else:
        show_verdicts(verdicts)
        stdout.print(f"{'PASSED' if passed else 'FAILED'}: {model} against {report}", markup=False)
    if not passed:
        raise typer.Exit(1)
